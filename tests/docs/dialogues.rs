//! The dialogues of the protocol: that the bridge answers as they show.

use std::fs;
use std::path::Path;

use super::page::{protocol_manual, section};
use crate::harness::{Bridge, Directory, Tiny};

/// The path of a model in the examples.
const MODEL: &str = "/models/tiny.gguf";

/// The literal blocks of a page.
fn blocks(page: &str) -> impl Iterator<Item = &str> {
    let blocks = page.split("\n.Bd -literal -offset indent\n").skip(1);
    blocks
        .filter_map(|block| block.split_once("\n.Ed"))
        .map(|(block, _)| block)
}

/// The dialogues of a page: its literal blocks in which a client and the server speak.
fn dialogues(page: &str) -> Vec<Vec<String>> {
    blocks(page)
        .map(spoken)
        .filter(|dialogue| !dialogue.is_empty())
        .collect()
}

/// What is said in a block; an indented line goes on with the one before.
fn spoken(block: &str) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    for line in block.lines().map(plain) {
        match (line.strip_prefix("   "), said.last_mut()) {
            (Some(rest), Some(last)) => last.push_str(rest),
            _ if line.starts_with("C: ") || line.starts_with("S: ") => said.push(line),
            _ => {}
        }
    }
    said
}

/// Whether this is the reply that a page shows, in which `...` stands for one or more numbers, or
/// `(more)` for any text.
fn shows(shown: &str, reply: &str) -> bool {
    if let Some((start, end)) = shown.split_once("(more)") {
        let rest = reply.strip_prefix(start);
        return rest.is_some_and(|rest| rest.len() > end.len() && rest.ends_with(end));
    }
    let number = |byte: u8| byte.is_ascii_digit() || b".,-e".contains(&byte);
    let mut parts = shown.split("...");
    let mut rest = parts.next().and_then(|part| reply.strip_prefix(part));
    for part in parts {
        rest = rest
            .and_then(|rest| rest.split_once(part))
            .filter(|(numbers, _)| !numbers.is_empty() && numbers.bytes().all(number))
            .map(|(_, rest)| rest);
    }
    shown == reply || rest == Some("")
}

#[test]
fn a_shown_reply_is_compared_but_for_its_numbers() {
    let shown = r#"{"ms":...,"list":[...],"seed":4}"#;
    assert!(shows(shown, r#"{"ms":0.25,"list":[-1.0,2e-7],"seed":4}"#));
    assert!(shows(r#"{"data":"ab..."}"#, r#"{"data":"ab..."}"#));
    for wrong in [
        r#"{"ms":...}"#,
        r#"{"ms":2,"seed":...}"#,
        r#"{"ms":x...,"seed":4}"#,
        r#"{"ms":...,"seed":5}"#,
    ] {
        assert!(!shows(wrong, r#"{"ms":1,"seed":4}"#), "{wrong}");
    }
    assert!(!shows(r#"{"ms":...}"#, r#"{"ms":}"#));
    assert!(shows(r#"{"data":"a(more)z"}"#, r#"{"data":"abcz"}"#));
    assert!(!shows(r#"{"data":"a(more)z"}"#, r#"{"data":"az"}"#));
    assert!(!shows(r#"{"data":"a(more)z"}"#, r#"{"data":"bcz"}"#));
    assert!(!shows(r#"{"ms":...}"#, r#"{"ms":null}"#));
}

/// A line of a page without mdoc's escapes.
fn plain(line: &str) -> String {
    line.replace("\\&", "")
        .replace("\\(dq", "\"")
        .replace("\\-", "-")
        .replace("\\e", "\\")
}

#[test]
fn the_dialogues_of_the_manual_are_true() {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let here = |line: &str| line.replace("/models/", &format!("{}/", home.path().display()));
    assert!(model.ends_with(Path::new(MODEL).file_name().expect("it has one")));
    let page = protocol_manual();
    let template = blocks(&page).find(|block| block.starts_with("{{"));
    let template_file = home.join("template");
    fs::write(&template_file, template.expect("the page has one")).expect("it can be written");
    let template_file = template_file.to_str().expect("test paths are UTF-8");
    let options = ["--temp", "0", "--max-tokens", "8", "--seed", "42"];
    let options = [&options[..], &["--chat-template-file", template_file]].concat();
    let states = home.path().to_str().expect("test paths are UTF-8");
    let options = [&options[..], &["--state-dir", states]].concat();
    let all = dialogues(&page);
    assert!(all.len() >= 6, "only {} dialogues", all.len());
    for dialogue in all {
        // Each begins with a bridge of its own and no model loaded.
        let bridge = Bridge::start(&home, &options);
        let mut client = bridge.connect();
        for line in dialogue {
            match line.split_at(3) {
                ("C: ", request) => client.ask(&here(request)),
                (_, reply) => {
                    let shown = here(reply);
                    let received = client.receive();
                    if !shows(&shown, &received) {
                        client.fail(&format!(
                            "expected\n   {shown}\nbut received\n   {received}"
                        ));
                    }
                }
            }
        }
    }
}

#[test]
fn every_verb_has_a_dialogue() {
    let page = protocol_manual();
    for verb in section(&page, "VERBS").split("\n.Ss ").skip(1) {
        let name = verb.split_whitespace().next().unwrap_or_default();
        let said = verb
            .lines()
            .any(|line| line == format!("C: {name}") || line.starts_with(&format!("C: {name} ")));
        assert!(said, "{name} has no dialogue");
    }
}
