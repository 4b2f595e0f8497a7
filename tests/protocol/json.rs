//! The JSON of GENERATE: what is not JSON, too deep, too big or too long, and every character.

use crate::harness::{Bridge, Client, Directory, Tiny, carousel, expect_refusals, quoted};

/// The rest of what is not JSON is tested beside the reader, in `src/protocol/json/tests.rs`.
#[test]
fn what_is_not_json_is_refused_with_the_byte_where_it_stops() {
    let wrong = |at: usize, expected: &str, found: &str| {
        format!("Not valid JSON at byte {at}: expected {expected}, found {found}")
    };
    let string = "the rest of a string, control characters escaped";
    expect_refusals(&[
        ("hello", &wrong(0, "a value", "'h'")),
        ("{", &wrong(1, "the name of a field", "the end")),
        (r#"{"prompt" "a"}"#, &wrong(10, "':'", r#"'\"'"#)),
        ("{\"prompt\":\"a\nb\"}", &wrong(12, string, r"'\n'")),
        (
            "{\"prompt\":\"\u{e9}\u{1f600}\",\"top_k\":tru}",
            &wrong(27, "a value", "'t'"),
        ),
        ("[]", "GENERATE takes a JSON object, not an array"),
        (r#""prompt""#, "GENERATE takes a JSON object, not a string"),
        ("null", "GENERATE takes a JSON object, not null"),
    ]);
}

#[test]
fn half_a_surrogate_pair_is_refused_and_a_whole_one_is_a_character() {
    let home = Directory::new();
    let model = Tiny::mute().chain("\u{1f600}!");
    let bridge = Bridge::with_model(&home, &model.write(home.join("tiny.gguf")), &[]);
    let mut client = bridge.connect();
    for half in [r"\ud83d", r"\ud83d\u0041", r"\ude00", r"\ud83dx"] {
        client.ask(&format!(r#"GENERATE {{"prompt":"{half}"}}"#));
        let message = client.expect_error("bad_request");
        let start = "Not valid JSON at byte 12: expected both halves of a surrogate pair";
        assert!(message.starts_with(start), "{message}");
    }
    let answer = client.generate(r#"{"prompt":"\ud83d\uDE00"}"#);
    assert_eq!((&answer.text[..], answer.prompt_tokens), ("!", 5));
}

#[test]
fn deep_nesting_is_an_error() {
    let home = Directory::new();
    let bridge = carousel(&home, &[]);
    let mut client = bridge.connect();
    let deep = "[".repeat(100_000);
    let objects = r#"{"a":"#.repeat(100_000);
    for (request, at) in [
        (deep.clone(), 65),
        (objects, 325),
        (format!(r#"{{"json_schema":{deep}"#), 15 + 64),
    ] {
        client.ask(&format!("GENERATE {request}"));
        let message = client.expect_error("bad_request");
        let start = format!("Not valid JSON at byte {at}: expected at most 64 levels of nesting");
        assert!(message.starts_with(&start), "{message}");
    }
    assert_eq!(
        client.generate(r#"{"prompt":"y","max_tokens":1}"#).text,
        "z"
    );
}

#[test]
fn huge_numbers_are_errors() {
    let digits = "9".repeat(10_000);
    let shown = format!("{}...", "9".repeat(64));
    expect_refusals(&[
        (
            &format!(r#"{{"prompt":"a","seed":{digits}}}"#),
            &format!("Field 'seed' takes a whole number from 0 to 4294967295, not {shown}"),
        ),
        (
            &format!(r#"{{"prompt":"a","top_p":{digits}}}"#),
            &format!("Field 'top_p' takes a number from 0 to 1, not {shown}"),
        ),
        (
            r#"{"prompt":"a","max_tokens":1e999}"#,
            "Field 'max_tokens' takes a whole number from -1 to 1048576, not 1e999",
        ),
    ]);
    let home = Directory::new();
    let bridge = carousel(&home, &[]);
    // Many digits of a small number are just that number.
    let fields = format!(r#""temperature":0.{},"max_tokens":1"#, "0".repeat(10_000));
    let answer = bridge
        .connect()
        .generate(&format!(r#"{{"prompt":"a",{fields}}}"#));
    assert_eq!(answer.text, "b");
}

#[test]
fn a_prompt_of_any_characters_reaches_the_model() {
    let home = Directory::new();
    let bridge = carousel(&home, &["-n", "1"]);
    let mut client = bridge.connect();
    let prompt = "\u{1}\t\r\n\u{7f}\u{85}\u{2028}\u{feff}\u{fdd0}\u{ffff}\u{10ffff}\\\" y";
    let answer = client.generate(&format!(r#"{{"prompt":{}}}"#, quoted(prompt)));
    assert_eq!(answer.text, "z");
    assert_eq!(answer.prompt_tokens as usize, prompt.len() + 1);
    let answer = client.generate(r#"{"prompt":"a\u0000y"}"#);
    assert_eq!((&answer.text[..], answer.prompt_tokens), ("z", 4));
}

/// Sends an object that is longer than the bridge takes, and one that is not.
#[test]
fn an_object_may_be_as_long_as_a_request() {
    let home = Directory::new();
    let bridge = carousel(&home, &["--max-request", "4096"]);
    let mut client: Client = bridge.connect();
    let object = |length: usize| {
        let blanks = " ".repeat(length - r#"GENERATE {"prompt":"a","max_tokens":1}"#.len());
        format!(r#"{{"prompt":"a",{blanks}"max_tokens":1}}"#)
    };
    assert_eq!(client.generate(&object(4096)).text, "b");
    client.ask_netstring(&format!("GENERATE {}", object(4097)));
    assert_eq!(
        client.expect_error("too_long"),
        "Request longer than 4096 bytes"
    );
}
