//! The six verbs and their replies, byte for byte.

use std::path::PathBuf;

use crate::harness::{Bridge, Directory, Tiny, completed, failure, loaded, ok};

fn tiny(home: &Directory) -> PathBuf {
    Tiny::alphabet().write(home.join("tiny.gguf"))
}

#[test]
fn ping_is_answered_with_pong() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.exchange("PING", r#"{"status":"ok","message":"pong"}"#);
}

#[test]
fn status_tells_which_model_is_loaded() {
    let home = Directory::new();
    let model = tiny(&home);
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.exchange("STATUS", r#"{"status":"ok","message":"No model loaded"}"#);
    client.load(&model);
    let told = format!(
        r#"{{"status":"ok","message":"Model loaded: {}"}}"#,
        model.display()
    );
    client.exchange("STATUS", &told);
}

#[test]
fn load_is_answered_once_the_model_is_loaded() {
    let home = Directory::new();
    let model = tiny(&home);
    let bridge = Bridge::start(&home, &["--temp", "0"]);
    let mut client = bridge.connect();
    client.exchange(
        &format!("LOAD {}", model.display()),
        r#"{"status":"ok","message":"Model loaded successfully"}"#,
    );
    client.exchange("INFER w", &completed("xyz"));
}

#[test]
fn load_without_a_path_is_an_error() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    let reply = r#"{"status":"error","message":"No model path provided","code":"bad_request"}"#;
    client.exchange("LOAD", reply);
    client.exchange("LOAD ", reply);
    client.exchange("LOAD \t ", reply);
}

#[test]
fn infer_is_answered_with_what_the_model_generates_after_the_prompt() {
    let home = Directory::new();
    let bridge = Bridge::with_model(&home, &tiny(&home), &[]);
    let mut client = bridge.connect();
    client.exchange(
        "INFER This begins with a",
        r#"{"status":"ok","message":"Inference completed","data":"bcdefghijklmnopqrstuvwxyz"}"#,
    );
}

#[test]
fn infer_without_a_prompt_is_an_error() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    let reply = r#"{"status":"error","message":"No prompt provided","code":"bad_request"}"#;
    client.exchange("INFER", reply);
    client.exchange("INFER  ", reply);
}

#[test]
fn infer_without_a_model_is_an_error() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    let reply = r#"{"status":"error","message":"No model loaded","code":"no_model"}"#;
    client.exchange("INFER hello", reply);
}

#[test]
fn free_is_answered_the_same_with_and_without_a_model() {
    let home = Directory::new();
    let bridge = Bridge::with_model(&home, &tiny(&home), &[]);
    let mut client = bridge.connect();
    client.exchange("FREE", r#"{"status":"ok","message":"Resources freed"}"#);
    client.exchange("STATUS", &ok("No model loaded"));
    client.exchange("FREE", r#"{"status":"ok","message":"Resources freed"}"#);
}

#[test]
fn quit_is_answered_with_goodbye_and_stops_the_bridge() {
    let home = Directory::new();
    let mut bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.exchange("QUIT", r#"{"status":"ok","message":"Goodbye"}"#);
    client.expect_end();
    bridge.expect_stop(&[]);
}

#[test]
fn nothing_behind_quit_is_carried_out() {
    let home = Directory::new();
    let mut bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.send("PING\nQUIT\nPING\n");
    client.expect(&ok("pong"));
    client.expect(&ok("Goodbye"));
    client.expect_end();
    bridge.expect_stop(&[]);
}

#[test]
fn an_unknown_verb_is_repeated_in_the_error() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.exchange(
        "DANCE with me",
        r#"{"status":"error","message":"Unknown command: DANCE","code":"unknown_command"}"#,
    );
}

#[test]
fn an_unknown_verb_is_cut_at_64_characters() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    for letter in ["x", "\u{e9}", "\u{1f600}"] {
        let unknown = |count| failure("unknown_command", &said(letter, count));
        client.exchange(&letter.repeat(64), &unknown(64));
        client.exchange(&letter.repeat(65), &unknown(64));
    }
}

fn said(letter: &str, count: usize) -> String {
    format!("Unknown command: {}", letter.repeat(count))
}

#[test]
fn a_verb_is_compared_whole() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    for verb in ["PIN", "PINGS", "PING,", "\"PING\"", "LOAD/tmp", " PING"] {
        let word = verb.trim_start().replace('"', "\\\"");
        let word = if verb.starts_with(' ') {
            String::new()
        } else {
            word
        };
        client.exchange(
            verb,
            &failure("unknown_command", &format!("Unknown command: {word}")),
        );
    }
}

#[test]
fn verbs_may_be_written_in_any_case() {
    let home = Directory::new();
    let model = tiny(&home);
    let mut bridge = Bridge::start(&home, &["--temp", "0"]);
    let mut client = bridge.connect();
    client.exchange("ping", &ok("pong"));
    client.exchange("Status", &ok("No model loaded"));
    client.exchange(&format!("load {}", model.display()), loaded());
    client.exchange("iNfEr x", &completed("yz"));
    client.exchange("Free", &ok("Resources freed"));
    client.exchange("quit", &ok("Goodbye"));
    bridge.expect_stop(&[]);
}

#[test]
fn verbs_without_an_argument_reject_one() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    for verb in ["PING", "STATUS", "FREE", "QUIT"] {
        let reply = failure("bad_request", &format!("{verb} takes no argument"));
        client.exchange(&format!("{verb} now"), &reply);
    }
    client.exchange("PING", &ok("pong"));
}

#[test]
fn blanks_behind_a_verb_without_argument_do_not_count() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.exchange("PING ", &ok("pong"));
    client.exchange("STATUS \t", &ok("No model loaded"));
}

#[test]
fn only_quotes_backslashes_and_control_characters_are_escaped() {
    let home = Directory::new();
    let text = "\u{1}/\"\\\t<\u{e9}\u{2028}\u{1f601}";
    let bridge = Bridge::with_model(&home, &chain_of(&home, text), &[]);
    let mut client = bridge.connect();
    let escaped = "\\u0001/\\\"\\\\\\t<\u{e9}\u{2028}\u{1f601}";
    client.exchange("INFER >", &completed(escaped));
}

/// A model that says `text` after `>`.
fn chain_of(home: &Directory, text: &str) -> PathBuf {
    Tiny::mute()
        .chain(&format!(">{text}"))
        .write(home.join("text.gguf"))
}
