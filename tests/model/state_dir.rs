//! The files of saved states: what they are worth when they are damaged, of something else, or put
//! there by others, and how much room they may take.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::harness::{Bridge, Client, Directory, Tiny, command, failure, run};
use crate::model::saved_state::{ask, keeper, marked, model_states, restore, save};

/// Expects that a state cannot be brought back for this reason, and that what was evaluated
/// before is still there.
fn expect_refusal(client: &mut Client, name: &str, code: &str, reason: &str) {
    ask(client, "what lives", 1);
    client.exchange(&format!("RESTORE {name}"), &failure(code, reason));
    assert_eq!(
        ask(client, "what lives on", 1).cached_tokens,
        11,
        "{reason}"
    );
}

fn unusable(name: &str, reason: &str) -> String {
    format!("The saved state '{name}' cannot be used: {reason}")
}

#[test]
fn a_damaged_state_is_refused_and_the_live_one_stays() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    let bridge = keeper(&home, &model, &[]);
    let mut client = bridge.connect();
    ask(&mut client, "some text", 1);
    save(&mut client, "good");
    let states = model_states(&home);
    let good = fs::read(states.join("good.state")).expect("it is there");
    let write = |bytes: &[u8]| fs::write(states.join("bad.state"), bytes).expect("it can be");
    let wrong_sum = unusable("bad", "it is damaged: its checksum is wrong");
    // At the start, in the tokens, in the cache, in the label, and at the checksum itself.
    for at in [0, 12, good.len() / 2, good.len() - 40, good.len() - 10] {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        write(&bytes);
        expect_refusal(&mut client, "bad", "bad_request", &wrong_sum);
    }
    let no_end = unusable("bad", "it is damaged: its end is missing");
    for length in [good.len() - 1, good.len() / 2, 20] {
        write(&good[..length]);
        expect_refusal(&mut client, "bad", "bad_request", &no_end);
    }
    let foreign = unusable("bad", "it is not a saved state");
    for bytes in [&b""[..], b"GGUF", b"a text of somebody else's, long enough"] {
        write(bytes);
        expect_refusal(&mut client, "bad", "bad_request", &foreign);
    }
    let missing = "There is no saved state 'missing'";
    expect_refusal(&mut client, "missing", "not_found", missing);
    write(&good);
    restore(&mut client, "bad");
}

#[test]
fn a_state_of_something_else_is_refused_with_what_it_is_of() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    let other = Tiny::carousel().write(home.join("other.gguf"));
    let bridge = keeper(&home, &model, &[]);
    let mut client = bridge.connect();
    ask(&mut client, "some text", 1);
    save(&mut client, "a");
    drop(client);
    drop(bridge);
    for (model, options, of) in [
        (&other, &[][..], "another model than the one that is loaded"),
        (
            &model,
            &["-c", "256"],
            "a context of 512 tokens; this one has 256",
        ),
        (
            &model,
            &["--cache-type-k", "f32"],
            "a K cache of type f16; this one is f32",
        ),
        (
            &model,
            &["--cache-type-v", "f32"],
            "a V cache of type f16; this one is f32",
        ),
        (
            &model,
            &["--flash-attn", "off"],
            "--flash-attn auto; here it is off",
        ),
    ] {
        let bridge = keeper(&home, model, options);
        let mut client = bridge.connect();
        let message = format!("The saved state 'a' is of {of}");
        expect_refusal(&mut client, "a", "unsupported", &message);
    }
}

#[test]
fn a_copy_of_the_model_reads_the_states_of_the_original() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    let copy = home.join("copy.gguf");
    fs::copy(&model, &copy).expect("it can be copied");
    let bridge = keeper(&home, &model, &[]);
    let mut client = bridge.connect();
    ask(&mut client, "some text", 1);
    save(&mut client, "a");
    client.load(&copy);
    restore(&mut client, "a");
}

#[test]
fn a_state_is_its_owners_alone_and_nothing_is_left_beside_it() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    let bridge = keeper(&home, &model, &[]);
    let mut client = bridge.connect();
    ask(&mut client, "some text", 1);
    let (_, bytes) = save(&mut client, "a");
    let again = save(&mut client, "a");
    let states = model_states(&home);
    assert_eq!(names(&states), ["a.state"]);
    assert_eq!(names(&states.join("saving")), [""; 0]);
    let metadata = fs::metadata(states.join("a.state")).expect("it is there");
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
    for directory in [states.clone(), states.join("saving")] {
        let mode = fs::metadata(directory).expect("it is there").permissions();
        assert_eq!(mode.mode() & 0o7777, 0o700);
    }
    assert_eq!((metadata.len(), again.1), (bytes, bytes));
}

/// What is in a directory, but for that of states to come.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("it is there");
    let names = entries.flatten().map(|entry| entry.file_name());
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    names.retain(|name| name != "saving");
    names.sort();
    names
}

#[test]
fn what_others_put_there_is_neither_read_nor_written_through() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    let bridge = keeper(&home, &model, &[]);
    let mut client = bridge.connect();
    ask(&mut client, "some text", 1);
    save(&mut client, "real");
    let victim = home.join("victim");
    fs::write(&victim, "precious").expect("it can be written");
    let states = model_states(&home);
    let link = |target: &Path, name: &str| {
        symlink(target, states.join(name)).expect("it can be made");
    };
    link(&states.join("real.state"), "link.state");
    client.exchange(
        "RESTORE link",
        &failure("bad_request", &unusable("link", "it is a symbolic link")),
    );
    let fifo = states.join("fifo.state");
    let made = Command::new("mkfifo").arg(&fifo).status();
    assert!(made.expect("mkfifo can be run").success());
    client.exchange(
        "RESTORE fifo",
        &failure("bad_request", &unusable("fifo", "it is a FIFO")),
    );
    link(&victim, "a.state");
    save(&mut client, "a");
    assert_eq!(fs::read(&victim).expect("it is there"), b"precious");
    let metadata = fs::symlink_metadata(states.join("a.state")).expect("it is there");
    assert!(metadata.is_file());
}

/// A bridge that has saved a state `a`, and whose directory has room for two and a half of them; a
/// client of it; the size of the state, and the room as it was given, in bytes.
fn with_room_for_two(home: &Directory) -> (Bridge, Client, u64, String) {
    let model = marked().write(home.join("tiny.gguf"));
    let bridge = keeper(home, &model, &[]);
    let mut client = bridge.connect();
    ask(&mut client, "some text", 1);
    let (_, bytes) = save(&mut client, "a");
    drop(client);
    drop(bridge);
    let limit = (2 * bytes + bytes / 2).to_string();
    let bridge = keeper(home, &model, &["--state-limit", &limit]);
    let mut client = bridge.connect();
    ask(&mut client, "some text", 1);
    (bridge, client, bytes, limit)
}

#[test]
fn the_oldest_states_make_room_and_what_is_no_state_stays() {
    let home = Directory::new();
    let (_bridge, mut client, bytes, limit) = with_room_for_two(&home);
    let states = model_states(&home);
    let foreign = vec![0; bytes as usize * 3];
    fs::write(states.join("notes.state"), &foreign).expect("it can be written");
    for name in ["b", "c", "a", "d"] {
        save(&mut client, name);
        // Those who were saved within one tick of the clock have no order.
        age(&home, &states, name);
    }
    assert_eq!(names(&states), ["a.state", "d.state", "notes.state"]);
    ask(&mut client, &"a long text, ".repeat(20), 1);
    client.ask("SAVE large");
    let message = client.expect_error("denied");
    let end = format!("--state-limit allows {limit} for all of them");
    assert!(message.ends_with(&end), "{message}");
    assert_eq!(names(&states), ["a.state", "d.state", "notes.state"]);
}

#[test]
fn what_an_earlier_version_left_half_written_goes_after_an_hour() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    let bridge = keeper(&home, &model, &[]);
    let mut client = bridge.connect();
    ask(&mut client, "some text", 1);
    save(&mut client, "a");
    let states = model_states(&home);
    let root = states.parent().expect("it is in the one of all models");
    let leave = |name: &str, hours: u64| {
        let file = fs::File::create(root.join(name)).expect("it can be made");
        let time = SystemTime::now() - Duration::from_secs(hours * 3600);
        file.set_modified(time).expect("it can be set");
    };
    // The one is perhaps still being written, the other one not of the bridge.
    for (name, hours) in [("old.saving", 2), ("new.saving", 0), ("old.text", 2)] {
        leave(name, hours);
    }
    save(&mut client, "a");
    let left = names(root).into_iter().filter(|name| name.contains('.'));
    assert_eq!(left.collect::<Vec<_>>(), ["new.saving", "old.text"]);
    assert_eq!(names(&states), ["a.state"]);
}

/// Waits until a file that would be made now is younger than this state.
fn age(home: &Directory, states: &Path, name: &str) {
    let saved = fs::metadata(states.join(format!("{name}.state")));
    let saved = saved.expect("it is there");
    let saved = (saved.mtime(), saved.mtime_nsec());
    crate::harness::wait_until("the clock of files goes on", || {
        fs::write(home.join("clock"), "").expect("it can be written");
        let clock = fs::metadata(home.join("clock")).expect("it is there");
        (clock.mtime(), clock.mtime_nsec()) > saved
    });
}

#[test]
fn a_directory_that_is_none_keeps_the_bridge_from_starting() {
    let home = Directory::new();
    fs::write(home.join("file"), "").expect("it can be written");
    for (name, reason) in [
        ("missing", "No such file or directory (os error 2)"),
        ("file", "is not a directory"),
    ] {
        let path = home.join(name).display().to_string();
        let ended = run(&mut command(&home, &["--state-dir", &path]));
        let expected = format!("llama-cpp-bridge: --state-dir: {path}: {reason}\n");
        assert_eq!((ended.code, ended.errors), (Some(1), expected));
    }
}

#[test]
fn a_state_that_cannot_be_written_is_an_error_and_the_live_one_stays() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    let bridge = keeper(&home, &model, &[]);
    let mut client = bridge.connect();
    ask(&mut client, "some text", 1);
    let rename = |from: &str, to: &str| fs::rename(home.join(from), home.join(to));
    rename("states", "away").expect("it can be renamed");
    let reason = "Cannot save the state 'a': No such file or directory (os error 2)";
    client.exchange("SAVE a", &failure("internal", reason));
    assert_eq!(ask(&mut client, "some text on", 1).cached_tokens, 10);
    rename("away", "states").expect("it can be renamed back");
    save(&mut client, "a");
}

#[test]
fn a_state_that_cannot_be_kept_costs_none_of_the_others() {
    let home = Directory::new();
    let (_bridge, mut client, _, _) = with_room_for_two(&home);
    save(&mut client, "b");
    let states = model_states(&home);
    fs::create_dir(states.join("c.state")).expect("it can be made");
    client.ask("SAVE c");
    let message = client.expect_error("internal");
    assert!(
        message.starts_with("Cannot save the state 'c': "),
        "{message}"
    );
    assert_eq!(names(&states), ["a.state", "b.state", "c.state"]);
}
