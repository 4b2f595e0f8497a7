//! Texts as long as a request can be: refused or turned into tokens within the
//! time that every answer has; before, some took hours.

use miniserde::{Deserialize, json};

use crate::harness::{Bridge, Client, Directory, Tiny, quoted, smollm2_or_skip};

/// The text that ends a turn.
const END: &str = "<|im_end|>";
/// Bytes that the request may have beside the text.
const ROOM: usize = 100;

/// A bridge whose model has tokens for `<|im_start|>`, `<|im_end|>` and each byte.
fn bridge(home: &Directory) -> Bridge {
    let model = Tiny::carousel().special(&["<|im_start|>", END]);
    let model = model.write(home.join("tiny.gguf"));
    let path = home.join("template.jinja");
    let source = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}";
    std::fs::write(&path, source).expect("a template can be written");
    let path = path.to_str().expect("UTF-8");
    Bridge::with_model(home, &model, &["--chat-template-file", path, "-n", "0"])
}

/// As much of `part`, again and again, as a request can hold.
fn much(part: &str) -> String {
    part.repeat(((4 << 20) - ROOM) / part.len())
}

/// Sends a request and gives the message of the error that answers it.
fn refused(client: &mut Client, request: &str) -> String {
    client.ask_netstring(request);
    client.expect_error("context_exceeded")
}

#[test]
fn a_text_that_cannot_fit_is_refused_before_it_is_turned_into_tokens() {
    let home = Directory::new();
    let bridge = bridge(&home);
    let mut client = bridge.connect();
    for part in [END, "<", "<|im_", "a", "<|im_end|> ", " ", "\u{e9}"] {
        let text = much(part);
        // The longest token is <|im_start|>, of 12 bytes; the template adds 22.
        let at_least = |kind: &str, bytes: usize| {
            let tokens = bytes.div_ceil(12);
            format!("{kind} of at least {tokens} tokens exceeds the context of 512 tokens")
        };
        let expected = at_least("Prompt", text.len());
        for verb in ["INFER", "STREAM"] {
            let message = refused(&mut client, &format!("{verb} {text}"));
            assert_eq!(message, expected, "{part}");
        }
        let object = format!(r#"GENERATE {{"prompt":{}}}"#, quoted(&text));
        assert_eq!(refused(&mut client, &object), expected, "{part}");
        let message = refused(&mut client, &format!("EMBED {text}"));
        assert_eq!(message, at_least("Text", text.len()), "{part}");
        let message = refused(&mut client, &format!("CHAT {text}"));
        assert_eq!(message, at_least("Prompt", text.len() + 22), "{part}");
        let half = quoted(&text[..text.len() / 2 / part.len() * part.len()]);
        let turn = |role: &str| format!(r#"{{"role":"{role}","content":{half}}}"#);
        let turns = format!("{},{}", turn("user"), turn("assistant"));
        let object = format!(r#"GENERATE {{"messages":[{turns}]}}"#);
        refused(&mut client, &object);
    }
}

#[test]
fn a_text_that_is_not_that_long_is_refused_with_its_exact_number_of_tokens() {
    let home = Directory::new();
    let bridge = bridge(&home);
    let mut client = bridge.connect();
    // Up to 128 KiB are counted, and beyond that what could fit; here that is only 6,144 bytes.
    let message = refused(&mut client, &format!("INFER {}", "a".repeat(131_072)));
    let exact = "Prompt of 131073 tokens exceeds the context of 512 tokens";
    assert_eq!(message, exact);
    let message = refused(&mut client, &format!("INFER {}", "a".repeat(131_073)));
    let least = "Prompt of at least 10923 tokens exceeds the context of 512 tokens";
    assert_eq!(message, least);
    // As many bytes as can fit do so, in the longest tokens.
    client.ask(&format!("STREAM {}", "<|im_start|>".repeat(511)));
    assert_eq!(client.answer().prompt_tokens, 512);
}

#[derive(Deserialize)]
struct Tokens {
    tokens: Vec<i32>,
}

/// The tokens of a text.
fn tokens_of(client: &mut Client, text: &str) -> Vec<i32> {
    client.ask_netstring(&format!("TOKENIZE {text}"));
    let line = client.receive();
    match json::from_str(&line) {
        Ok(Tokens { tokens }) => tokens,
        Err(_) => client.fail("expected tokens"),
    }
}

#[test]
fn a_text_full_of_special_tokens_is_soon_turned_into_tokens() {
    let home = Directory::new();
    let bridge = bridge(&home);
    let mut client = bridge.connect();
    for (part, tokens) in [
        (END, &[261][..]),
        ("<|im_end|> ", &[261, 259]),
        ("<|im_start|>a<|im_end|>\n", &[260, 100, 261, 13]),
        ("<<|im_end|>|>", &[63, 261, 127, 65]),
    ] {
        let text = much(part);
        let expected = tokens.repeat(text.len() / part.len());
        assert!(tokens_of(&mut client, &text) == expected, "{part}");
    }
}

#[test]
fn a_long_text_has_the_tokens_of_its_parts() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    let words = [
        "Hello",
        " world",
        " 1234",
        "\n\n",
        " ",
        "  ",
        "\u{e9}",
        "<|im_",
        "<|im_end|",
        ".",
    ];
    let special = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"];
    // Long enough to be cut several times; the numbers only have to be all over the place.
    let (mut text, mut expected, mut number) = (String::new(), Vec::new(), 1_u32);
    while text.len() < 100_000 {
        let mut part = String::new();
        let mut next = || {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (number >> 16) as usize
        };
        for _ in 0..next() % 6 {
            part.push_str(words[next() % words.len()]);
        }
        let end = special[next() % special.len()];
        if !part.is_empty() {
            expected.extend(tokens_of(&mut client, &part));
        }
        expected.extend(tokens_of(&mut client, end));
        text.push_str(&part);
        text.push_str(end);
    }
    assert!(tokens_of(&mut client, &text) == expected);
}
