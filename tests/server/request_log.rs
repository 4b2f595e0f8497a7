//! `--verbose`: a line for each request, without a word of its text.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::harness::{Bridge, Directory, Tiny, completed, ok};

/// Who this test is, as the lines have it.
fn me() -> String {
    let uid = fs::metadata("/proc/self").expect("it is there").uid();
    format!("uid={uid} pid={}", std::process::id())
}

/// The lines about requests, with `...` for milliseconds.
fn lines(errors: &str) -> Vec<String> {
    let mine = errors.lines().filter(|line| line.contains(" uid="));
    mine.map(|line| {
        let words = line.split(' ').map(|word| match word.split_once("ms=") {
            Some((name, number)) => {
                let number: f64 = number.parse().expect("milliseconds are a number");
                assert!(number >= 0.0, "{line}");
                format!("{name}ms=...")
            }
            None => word.to_string(),
        });
        words.collect::<Vec<String>>().join(" ")
    })
    .collect()
}

#[test]
fn each_request_has_a_line_and_none_of_its_text() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["--verbose"]);
    let mut client = bridge.connect();
    client.exchange("PING", &ok("pong"));
    client.exchange("INFER stuv", &completed("wxyz"));
    client.ask("SECRET word");
    client.expect_error("unknown_command");
    client.ask("EMBED stuv");
    client.receive();
    let mut answer = client.generate(r#"{"prompt":"stuv"}"#);
    drop(client);
    let errors = bridge.all_errors();
    let me = me();
    let prompt = answer.prompt_tokens;
    let cached = std::mem::take(&mut answer.cached_tokens);
    let tokens = |cached| {
        format!(
            "code=ok prompt_tokens={prompt} cached_tokens={cached} completion_tokens=4 first_token_ms=... ms=..."
        )
    };
    let expected = [
        format!("PING {me} code=ok ms=..."),
        format!("INFER {me} {}", tokens(0)),
        format!("unknown {me} code=unknown_command ms=..."),
        format!("EMBED {me} code=ok prompt_tokens={prompt} ms=..."),
        format!("GENERATE {me} {}", tokens(cached)),
        format!("QUIT {me} code=ok ms=..."),
    ];
    let expected = expected.map(|line| format!("llama-cpp-bridge: {line}"));
    assert_eq!(lines(&errors), expected);
    for text in ["stuv", "wxyz", "SECRET", "word"] {
        assert!(!errors.contains(text), "'{text}' is in\n{errors}");
    }
}

#[test]
fn a_request_whose_client_has_gone_has_a_line_too() {
    let home = Directory::new();
    let model = Tiny::endless().write(home.join("endless.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["--verbose", "-n", "-1", "-c", "0"]);
    let mut client = bridge.connect();
    client.ask("STREAM a");
    client.piece();
    client.vanish();
    let lines = lines(&bridge.all_errors());
    let line = format!("llama-cpp-bridge: STREAM {} code=abandoned ms=...", me());
    assert_eq!(lines.first(), Some(&line));
}

#[test]
fn without_the_option_there_is_none() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    bridge.connect().exchange("PING", &ok("pong"));
    assert_eq!(bridge.all_errors(), "");
}
