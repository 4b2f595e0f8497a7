//! Saved states: what is stored comes back, and is not evaluated again.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::tiny::Architecture;
use crate::harness::{Answer, Bridge, Client, Directory, Tiny, completed, failure, process};

/// A directory for states, and a bridge of `model` that uses it, with further options.
pub(crate) fn keeper(home: &Directory, model: &Path, options: &[&str]) -> Bridge {
    let states = home.join("states");
    let _ = fs::create_dir(&states);
    let states = states.to_str().expect("test paths are UTF-8");
    Bridge::with_model(home, model, &[&["--state-dir", states], options].concat())
}

/// The directory of the states of the one model that was loaded with this directory.
pub(crate) fn model_states(home: &Directory) -> PathBuf {
    let entries = fs::read_dir(home.join("states")).expect("it is there");
    let mut directories = entries.flatten().map(|entry| entry.path());
    let found = directories.find(|path| path.is_dir());
    found.expect("a model is loaded")
}

/// The tokens and bytes that a reply of SAVE or RESTORE tells of, which must say this besides.
pub(crate) fn numbers(client: &mut Client, said: &str) -> (u64, u64) {
    let line = client.receive();
    let start = format!(r#"{{"status":"ok","message":"{said}","state_tokens":"#);
    let numbers = line.strip_prefix(&start).and_then(|rest| {
        let (tokens, rest) = rest.split_once(r#","state_bytes":"#)?;
        Some((tokens.parse().ok()?, rest.strip_suffix('}')?.parse().ok()?))
    });
    numbers.unwrap_or_else(|| client.fail("expected the numbers of a state"))
}

/// Stores what was evaluated last.
pub(crate) fn save(client: &mut Client, name: &str) -> (u64, u64) {
    client.ask(&format!("SAVE {name}"));
    numbers(client, "State saved")
}

/// Brings a state back.
pub(crate) fn restore(client: &mut Client, name: &str) -> (u64, u64) {
    client.ask(&format!("RESTORE {name}"));
    numbers(client, "State restored")
}

/// Asks for so many tokens behind a prompt.
pub(crate) fn ask(client: &mut Client, prompt: &str, tokens: u32) -> Answer {
    client.generate(&format!(r#"{{"prompt":"{prompt}","max_tokens":{tokens}}}"#))
}

/// Where a text has an X, every further letter of this model is a Z: so its answer shows whether
/// the state is that of the text.
pub(crate) fn marked() -> Tiny {
    Tiny::carousel().remember(b'X', b'Z')
}

#[test]
fn a_state_outlives_the_bridge_and_only_what_is_new_is_evaluated() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    let bridge = keeper(&home, &model, &[]);
    let mut client = bridge.connect();
    assert_eq!(ask(&mut client, "some X before", 4).text, "ZZZZ");
    // The prompt has a token before its first letter, and the last of the answer is not evaluated.
    let (tokens, bytes) = save(&mut client, "first");
    assert_eq!(tokens, 1 + 13 + 3);
    drop(client);
    drop(bridge);
    let bridge = keeper(&home, &model, &[]);
    let mut client = bridge.connect();
    assert_eq!(restore(&mut client, "first"), (tokens, bytes));
    let answer = ask(&mut client, "some X beforeZZZZ and", 2);
    assert_eq!((answer.text.as_str(), answer.cached_tokens), ("ZZ", tokens));
}

#[test]
fn the_same_prompt_after_a_restore_is_evaluated_in_its_last_token_alone() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    let bridge = keeper(&home, &model, &["--parallel", "1"]);
    let mut client = bridge.connect();
    ask(&mut client, "some X before", 4);
    save(&mut client, "first");
    assert_eq!(ask(&mut client, "another prompt w", 2).text, "xy");
    restore(&mut client, "first");
    let answer = ask(&mut client, "some X before", 2);
    assert_eq!((answer.text.as_str(), answer.cached_tokens), ("ZZ", 13));
    // What was there before the restore is still kept as well.
    let answer = ask(&mut client, "another prompt w", 2);
    assert_eq!((answer.text.as_str(), answer.cached_tokens), ("xy", 16));
}

#[test]
fn what_is_saved_is_the_text_that_was_evaluated_last() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    let bridge = keeper(&home, &model, &[]);
    let mut client = bridge.connect();
    ask(&mut client, "a prompt of more than a few letters", 1);
    ask(&mut client, "short", 1);
    assert_eq!(save(&mut client, "short").0, 6);
    // A restored one is the last one as well.
    ask(&mut client, "something else", 1);
    restore(&mut client, "short");
    save(&mut client, "again");
    ask(&mut client, "something else", 1);
    restore(&mut client, "again");
    assert_eq!(ask(&mut client, "shorty", 1).cached_tokens, 6);
}

/// A state of a model of which nothing but the whole state can be used again.
fn goes_on_exactly(architecture: Architecture, prompt: &str) {
    let home = Directory::new();
    let model = marked().architecture(architecture);
    let model = model.write(home.join("tiny.gguf"));
    let bridge = keeper(&home, &model, &[]);
    let mut client = bridge.connect();
    let text = ask(&mut client, prompt, 4).text;
    let (tokens, _) = save(&mut client, "whole");
    drop(client);
    drop(bridge);
    let bridge = keeper(&home, &model, &[]);
    let mut client = bridge.connect();
    restore(&mut client, "whole");
    let longer = ask(&mut client, &format!("{prompt}{text}"), 4);
    assert_eq!(longer.cached_tokens, tokens);
    restore(&mut client, "whole");
    // Another text that begins like it cannot use it, and is not misled by it.
    assert_eq!(
        ask(&mut client, &format!("{}q", &prompt[1..]), 2).text,
        "rs"
    );
    drop(client);
    drop(bridge);
    let bridge = keeper(&home, &model, &[]);
    let mut client = bridge.connect();
    assert_eq!(
        ask(&mut client, &format!("{prompt}{text}"), 4).text,
        longer.text
    );
}

#[test]
fn a_window_that_has_slid_goes_on_where_it_was_saved() {
    let long = "X and of more tokens than the window of this model holds, up to a c";
    goes_on_exactly(Architecture::SlidingWindow, long);
}

#[test]
fn a_recurrent_state_goes_on_where_it_was_saved() {
    goes_on_exactly(Architecture::Recurrent, "X that it remembers, and a c");
}

#[test]
fn a_state_waits_for_the_requests_before_it_and_those_behind_wait_for_it() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    let bridge = keeper(&home, &model, &["-n", "3"]);
    let mut client = bridge.connect();
    client.send("INFER abc\nSAVE abc\nINFER xyz\nRESTORE abc\nSAVE copy\nPING\n");
    client.expect(&completed("def"));
    assert_eq!(numbers(&mut client, "State saved").0, 6);
    client.expect(&completed("abc"));
    assert_eq!(numbers(&mut client, "State restored").0, 6);
    assert_eq!(numbers(&mut client, "State saved").0, 6);
    client.expect(r#"{"status":"ok","message":"pong"}"#);
}

#[test]
fn a_restore_wakes_a_resting_model_and_a_save_has_nothing_to_store() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    let bridge = keeper(&home, &model, &[]);
    let mut client = bridge.connect();
    let nothing = failure(
        "not_found",
        "Nothing to save: the model has evaluated no prompt since it was loaded",
    );
    client.exchange("SAVE early", &nothing);
    ask(&mut client, "abc", 3);
    save(&mut client, "abc");
    let child = bridge.model_process();
    process::signal(child, "KILL");
    process::wait_for_end(child);
    client.exchange("SAVE late", &nothing);
    assert_eq!(process::children(bridge.pid()), [0; 0]);
    restore(&mut client, "abc");
    assert_eq!(ask(&mut client, "abcdef", 1).cached_tokens, 6);
    client.exchange("FREE", r#"{"status":"ok","message":"Resources freed"}"#);
    client.exchange("SAVE gone", &failure("no_model", "No model loaded"));
    client.exchange("RESTORE abc", &failure("no_model", "No model loaded"));
}

#[test]
fn a_name_is_one_of_plain_characters() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    let bridge = keeper(&home, &model, &[]);
    let mut client = bridge.connect();
    ask(&mut client, "abc", 1);
    let longest = "n".repeat(64);
    for name in [longest.as_str(), "A-z_0.9", "...", "-"] {
        save(&mut client, name);
        restore(&mut client, name);
    }
    let wrong =
        "A name of a state is 1 to 64 of the characters A-Z a-z 0-9 . _ -, and not '.' or '..'";
    let wrong = failure("bad_request", wrong);
    for name in [".", "..", "a/b", "../a", "a b", "ä", &"n".repeat(65)] {
        client.exchange(&format!("SAVE {name}"), &wrong);
        client.exchange(&format!("RESTORE {name}"), &wrong);
    }
    for verb in ["SAVE", "RESTORE"] {
        client.exchange(verb, &failure("bad_request", "No name provided"));
    }
}

#[test]
fn without_a_directory_both_are_denied() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    let denied = "The bridge was started without --state-dir and keeps no states";
    for request in ["SAVE a", "RESTORE a", "SAVE .."] {
        client.exchange(request, &failure("denied", denied));
    }
}
