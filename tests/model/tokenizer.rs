//! TOKENIZE and DETOKENIZE, and what INFO and HELP tell.

use std::collections::BTreeSet;
use std::path::Path;

use miniserde::{Deserialize, json};

use crate::harness::bert::{self, Pooling};
use crate::harness::{Bridge, Client, Directory, Tiny, failure, quoted, smollm2_or_skip};

/// A text of many scripts, signs and control characters.
const TEXT: &str = include_str!("texts/utf-8.txt");

#[derive(Deserialize)]
struct Tokens {
    tokens: Vec<i32>,
}

/// The tokens of a text.
fn tokenize(client: &mut Client, text: &str) -> Vec<i32> {
    client.ask_netstring(&format!("TOKENIZE {text}"));
    let line = client.receive();
    let reply: Option<Tokens> = json::from_str(&line).ok();
    match reply {
        Some(Tokens { tokens }) if line == tokens_reply(&tokens) => tokens,
        _ => client.fail("expected tokens"),
    }
}

fn tokens_reply(tokens: &[i32]) -> String {
    let tokens: Vec<String> = tokens.iter().map(i32::to_string).collect();
    let tokens = tokens.join(",");
    format!(r#"{{"status":"ok","message":"Tokenization completed","tokens":[{tokens}]}}"#)
}

/// Expects that these tokens are this text.
fn expect_text(client: &mut Client, tokens: &[i32], text: &str) {
    let tokens: Vec<String> = tokens.iter().map(i32::to_string).collect();
    let text = quoted(text);
    client.exchange(
        &format!("DETOKENIZE {}", tokens.join(" ")),
        &format!(r#"{{"status":"ok","message":"Detokenization completed","data":{text}}}"#),
    );
}

fn expect_round_trips(model: &Path, text: &str) {
    let home = Directory::new();
    let bridge = Bridge::with_model(&home, model, &[]);
    let mut client = bridge.connect();
    for text in text
        .lines()
        .chain([text, "a\u{0}b", "line\nline\r\n\n\nline"])
    {
        let tokens = tokenize(&mut client, text);
        assert!(!tokens.is_empty());
        expect_text(&mut client, &tokens, text);
    }
}

#[test]
fn tokens_of_a_tiny_model_are_the_text_again() {
    let home = Directory::new();
    // SentencePiece, of which kind this vocabulary is, has the sign U+2581 mean a space.
    let text = TEXT.replace('\u{2581}', "_");
    expect_round_trips(&Tiny::mute().write(home.join("tiny.gguf")), &text);
}

#[test]
fn a_blank_that_the_vocabulary_adds_is_not_part_of_the_text() {
    let home = Directory::new();
    let model = Tiny::mute().space_prefix().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    for text in ["a", "a b  c ", "\u{e9}\u{1f600}"] {
        let tokens = tokenize(&mut client, text);
        assert_eq!(tokens.first(), Some(&259));
        expect_text(&mut client, &tokens, text);
    }
}

#[test]
fn tokens_of_a_real_model_are_the_text_again() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    expect_round_trips(&model, TEXT);
}

#[test]
fn every_character_of_unicodes_first_plane_comes_back() {
    let home = Directory::new();
    let bridge = Bridge::with_model(&home, &Tiny::mute().write(home.join("tiny.gguf")), &[]);
    let mut client = bridge.connect();
    // But for the sign that means a space in a SentencePiece vocabulary.
    let all = ('\u{0}'..='\u{ffff}').filter(|character| *character != '\u{2581}');
    let all: Vec<char> = all.collect();
    for characters in all.chunks(2048) {
        let text: String = "x".chars().chain(characters.iter().copied()).collect();
        let tokens = tokenize(&mut client, &text);
        expect_text(&mut client, &tokens, &text);
    }
}

#[test]
fn tokens_are_those_of_the_text_alone() {
    let home = Directory::new();
    let model = Tiny::mute().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    // A byte's token is three more than the byte; nothing begins or ends the text.
    client.exchange("TOKENIZE abc", &tokens_reply(&[100, 101, 102]));
    client.exchange("TOKENIZE \u{e9}", &tokens_reply(&[0xc3 + 3, 0xa9 + 3]));
    // What is written as a special token is one.
    client.exchange("TOKENIZE a</s>", &tokens_reply(&[100, 2]));
    expect_text(&mut client, &[1, 100, 2], "<s>a</s>");
    expect_text(
        &mut client,
        &[0xf0 + 3, 0x9f + 3, 0x98 + 3, 0x80 + 3],
        "\u{1f600}",
    );
    // Half a character is no text.
    expect_text(&mut client, &[100, 0xc3 + 3], "a\u{fffd}");
}

#[test]
fn a_real_models_special_tokens_come_back() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    let text = "<|im_start|>user\nHello, world!<|im_end|>";
    let tokens = tokenize(&mut client, text);
    // <|im_start|> and <|im_end|> are the tokens 1 and 2 of this model.
    assert_eq!((tokens.first(), tokens.last()), (Some(&1), Some(&2)));
    assert!(tokens.len() < 12, "{tokens:?}");
    expect_text(&mut client, &tokens, text);
}

#[test]
fn what_is_no_token_is_a_bad_request() {
    let home = Directory::new();
    let model = Tiny::mute().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    for id in ["260", "-1", "2147483647", "-2147483648"] {
        let message = format!("{id} is not a token of the model; its tokens are 0 to 259");
        client.exchange(
            &format!("DETOKENIZE 100 {id} 101"),
            &failure("bad_request", &message),
        );
    }
    for id in [
        "a",
        "1,2",
        "1.5",
        "0x10",
        "2147483648",
        "[1]",
        "99999999999999999999",
    ] {
        let message = format!("'{id}' is not a token; a token is a whole number");
        client.exchange(
            &format!("DETOKENIZE 100 {id}"),
            &failure("bad_request", &message),
        );
    }
    client.exchange("TOKENIZE", &failure("bad_request", "No text provided"));
    client.exchange("DETOKENIZE", &failure("bad_request", "No tokens provided"));
    expect_text(&mut client, &[0, 259], "<unk> ");
}

#[test]
fn without_a_model_there_are_no_tokens() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.exchange("TOKENIZE a", &failure("no_model", "No model loaded"));
    client.exchange("DETOKENIZE 5", &failure("no_model", "No model loaded"));
    client.exchange(
        "DETOKENIZE x",
        &failure(
            "bad_request",
            "'x' is not a token; a token is a whole number",
        ),
    );
}

#[test]
fn words_of_a_bert_are_tokens() {
    let home = Directory::new();
    let model = bert::write(home.join("bert.gguf"), Pooling::Mean);
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    let tokens = ["red", "sea", "green"].map(|word| bert::token_of(word) as i32);
    assert_eq!(tokenize(&mut client, "red  sea green"), tokens);
    assert_eq!(tokenize(&mut client, "unheard"), [1]);
    // Each word's token is written with a blank before it.
    client.ask("DETOKENIZE 5 8");
    let line = client.receive();
    let start = r#"{"status":"ok","message":"Detokenization completed","data":""#;
    let text = line
        .strip_prefix(start)
        .and_then(|rest| rest.strip_suffix("\"}"));
    assert_eq!(text.map(str::trim), Some("red sea"), "{line}");
}

/// Every key of `INFO`, in the protocol's order.
const INFO: [&str; 18] = [
    "status",
    "message",
    "version",
    "model",
    "description",
    "architecture",
    "parameters",
    "size_bytes",
    "context_size",
    "training_context_size",
    "embedding_size",
    "vocabulary_size",
    "chat_template",
    "threads",
    "parallel",
    "loaded",
    "sandbox",
    "sandbox_lacks",
];

/// The keys and values of `INFO`, as they are written.
fn info(client: &mut Client) -> Vec<(String, String)> {
    client.ask("INFO");
    let line = client.receive();
    let fields = line
        .strip_prefix('{')
        .and_then(|line| line.strip_suffix('}'));
    // No value of these tests has a comma in it.
    let fields = fields.expect("it is an object").split(',');
    let pairs = fields.map(|field| {
        let (key, value) = field.split_once(':').expect("a key has a value");
        (key.trim_matches('"').to_string(), value.to_string())
    });
    pairs.collect()
}

#[test]
fn info_tells_all_about_a_loaded_model() {
    let home = Directory::new();
    let model = Tiny::mute().context(2048).write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["-c", "777", "--no-sandbox"]);
    let found = info(&mut bridge.connect());
    let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, INFO);
    // Two matrices of 260 by 288, two norms and one more, q and output of 32 and k and v of 32,
    // and three of the feed-forward layer, all 288 long.
    let parameters = 288 * (2 * 260 + 3 + 4 * 32 + 3 * 32);
    let text = |text: &str| quoted(text);
    let expected = [
        text("ok"),
        text("Model loaded"),
        text(env!("CARGO_PKG_VERSION")),
        text(model.to_str().expect("UTF-8")),
        text("tiny"),
        text("llama"),
        parameters.to_string(),
        found[7].1.clone(),
        "777".to_string(),
        "2048".to_string(),
        "288".to_string(),
        "260".to_string(),
        "false".to_string(),
        "1".to_string(),
        "8".to_string(),
        "true".to_string(),
        text("off"),
        "[]".to_string(),
    ];
    let values: Vec<&String> = found.iter().map(|(_, value)| value).collect();
    assert_eq!(values, expected.iter().collect::<Vec<_>>());
    let size: u64 = found[7].1.parse().expect("a whole number");
    let file = std::fs::metadata(&model).expect("it is there").len();
    assert!(size > file / 2 && size <= file, "{size} of {file}");
}

#[test]
fn info_without_a_model_tells_the_version() {
    let home = Directory::new();
    let model = Tiny::mute().write(home.join("tiny.gguf"));
    let bridge = Bridge::start(&home, &["--no-sandbox"]);
    let mut client = bridge.connect();
    let version = env!("CARGO_PKG_VERSION");
    let none = format!(
        r#"{{"status":"ok","message":"No model loaded","version":"{version}","loaded":false,"sandbox":"off","sandbox_lacks":[]}}"#
    );
    client.exchange("INFO", &none);
    client.load(&model);
    assert_eq!(info(&mut client).len(), INFO.len());
    client.exchange("FREE", &crate::harness::ok("Resources freed"));
    client.exchange("INFO", &none);
}

#[test]
fn info_of_a_real_model_is_true() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = Bridge::with_model(&home, &model, &[]);
    let found = info(&mut bridge.connect());
    let value = |key: &str| {
        let pair = found.iter().find(|(found, _)| found == key);
        pair.map_or("", |(_, value)| value.as_str())
    };
    assert_eq!(value("architecture"), "\"llama\"");
    assert_eq!(value("parameters"), "134515008");
    assert_eq!(value("context_size"), "4096");
    assert_eq!(value("training_context_size"), "8192");
    assert_eq!(value("embedding_size"), "576");
    assert_eq!(value("vocabulary_size"), "49152");
    assert_eq!(value("chat_template"), "true");
}

#[test]
fn help_has_a_line_for_every_command_of_the_program() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.ask("HELP");
    let line = client.receive();
    let start = r#"{"status":"ok","message":"Commands","data":""#;
    let lines = line
        .strip_prefix(start)
        .and_then(|rest| rest.strip_suffix("\"}"));
    let lines: Vec<&str> = lines.expect("it is a text").split(r"\n").collect();
    let verbs: BTreeSet<&str> = lines
        .iter()
        .filter_map(|line| line.split([' ', ':']).next())
        .collect();
    assert_eq!(verbs.len(), lines.len(), "one line each");
    let all = crate::harness::verbs();
    assert_eq!(verbs, all.iter().map(String::as_str).collect());
    for (verb, line) in verbs.iter().map(|verb| (verb, line_of(&lines, verb))) {
        // Each says what it does, and is a command indeed.
        assert!(
            line.split_once(": ")
                .is_some_and(|(_, what)| what.len() > 8)
        );
        if !["QUIT", "HELP"].contains(verb) {
            client.ask(verb);
            assert!(!client.receive().contains("unknown_command"));
        }
    }
}

fn line_of<'a>(lines: &[&'a str], verb: &str) -> &'a str {
    let mut found = lines.iter().filter(|line| line.starts_with(verb));
    found.next().expect("it has a line")
}
