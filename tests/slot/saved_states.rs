//! Saved states that a hostile model process writes: what it says of them is not believed, what it
//! does not let go of is not kept, and the states that are there stay as they are.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{
    Bridge, Client, Directory, Tiny, completed, failure, process, skip, stand_in, wait_until,
};

/// What a file has to end with to be a state.
const STATE: &str = "a text....llcbrst1";

/// What the stand-ins begin with: `$file` is where a state is to be written.
const START: &str = r#"
field() { printf '%s' "$load" | sed 's/.*"'$1'":"\([^"]*\)".*/\1/'; }
file=$(field directory)/saving/$(field scratch)
say() { printf '%s\n' "$1" >&0; }
"#;

/// A bridge that keeps states, and whose model process does this; the directory of its states, in
/// which there is a state `a`.
fn bridge(home: &Directory, text: &str, options: &[&str]) -> (Bridge, PathBuf) {
    let program = stand_in(home, &format!("{START}\n{text}"));
    let program = program.to_str().expect("test paths are UTF-8");
    let model = Tiny::mute().write(home.join("tiny.gguf"));
    let states = home.join("states");
    fs::create_dir(&states).expect("it can be made");
    let path = states.to_str().expect("test paths are UTF-8");
    let always = ["--state-dir", path, "--model-program", program];
    let bridge = Bridge::with_model(home, &model, &[&always, options].concat());
    let mut entries = fs::read_dir(states).expect("it is there").flatten();
    let own = entries.next().expect("a model is loaded").path();
    fs::write(own.join("a.state"), STATE).expect("it can be written");
    (bridge, own)
}

/// Expects that nothing is there but the state `a` as it was.
fn expect_untouched(own: &Path) {
    assert_eq!(names(own), ["a.state"]);
    let state = fs::read_to_string(own.join("a.state")).expect("it is there");
    assert_eq!(state, STATE);
}

/// The files in a directory of states. Where states are written, there has to be none.
fn names(own: &Path) -> Vec<String> {
    let list = |directory: &Path| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(list(&own.join("saving")), [""; 0]);
    let mut names = list(own);
    names.retain(|name| name != "saving");
    names.sort();
    names
}

/// Whether the file system tells of files that are open for writing.
fn has_leases(home: &Directory) -> bool {
    let path = home.join("lease");
    fs::write(&path, "").expect("it can be written");
    let file = fs::File::open(&path).expect("it is there");
    let told = llama_cpp_bridge::sys::lease::is_open_for_writing(&file);
    if told.is_err() {
        skip("the system does not have leases on this file system");
    }
    told.is_ok()
}

fn save(bridge: &Bridge, code: &str, reason: &str) -> Client {
    let mut client = bridge.connect();
    client.exchange("SAVE a", &failure(code, reason));
    client
}

/// What a process may do that is told to save a state, and what it is killed for.
const BREACHES: [(&str, &str); 6] = [
    (
        "printf %s 'new....llcbrst1' >$file; say 'state 1 {\"tokens\":1,\"bytes\":16}'",
        "a state of another size than was written",
    ),
    (
        "say 'state 1 {\"tokens\":1,\"bytes\":0}'",
        "what was written is not a state",
    ),
    (
        "echo notes >$file; say 'state 1 {\"tokens\":1,\"bytes\":6}'",
        "what was written is not a state",
    ),
    (
        "exec 7>$file; printf %s 'new....llcbrst1' >&7; say 'state 1 {\"tokens\":1,\"bytes\":15}'",
        "a state is still open for writing after its answer",
    ),
    // Opened a second time, and for reading as well.
    (
        "exec 7<>$file; printf %s 'new....llcbrst1' >$file; \
         say 'state 1 {\"tokens\":1,\"bytes\":15}'",
        "a state is still open for writing after its answer",
    ),
    (
        "exec 7>>$file; say 'failed 1 {\"code\":\"internal\",\"message\":\"no\"}'",
        "a state is still open for writing after its answer",
    ),
];

#[test]
fn a_process_that_lies_about_a_state_or_holds_it_is_killed_and_the_old_one_stays() {
    for (text, reason) in BREACHES {
        let home = Directory::new();
        if reason.contains("still open") && !has_leases(&home) {
            continue;
        }
        let (bridge, own) = bridge(&home, &format!("read -r request\n{text}\nread -r end"), &[]);
        let message = format!("Cannot save the state 'a': model process: {reason}");
        let client = save(&bridge, "internal", &message);
        drop(client);
        let line = format!("model process died: killed: {reason}\n");
        wait_until("it is killed", || bridge.errors().contains(&line));
        expect_untouched(&own);
    }
}

#[test]
fn a_state_that_is_closed_is_kept_in_the_place_of_the_old_one() {
    let home = Directory::new();
    let text = "read -r request
        exec 7>$file; printf %s 'new....llcbrst1' >&7; exec 7>&-; exec 8<$file
        say 'state 1 {\"tokens\":1,\"bytes\":15}'\nread -r end";
    let (bridge, own) = bridge(&home, text, &[]);
    let mut client = bridge.connect();
    let saved = r#"{"status":"ok","message":"State saved","state_tokens":1,"state_bytes":15}"#;
    client.exchange("SAVE a", saved);
    let state = fs::read_to_string(own.join("a.state")).expect("it is there");
    assert_eq!(state, "new....llcbrst1");
    assert_eq!(names(&own), ["a.state"]);
}

#[test]
fn a_state_above_the_limit_is_not_kept_whatever_wrote_it() {
    let home = Directory::new();
    let text = "read -r request
        printf '%1016s%s' '' llcbrst1 >$file; say 'state 1 {\"tokens\":1,\"bytes\":1024}'
        read -r request; rm $file; ln -s ../../../victim $file
        say 'state 2 {\"tokens\":1,\"bytes\":15}'; read -r end";
    let (bridge, own) = bridge(&home, text, &["--state-limit", "1000"]);
    fs::write(home.join("victim"), "new....llcbrst1").expect("it can be written");
    let message = "The state takes 1024 bytes; --state-limit allows 1000 for all of them";
    let mut client = save(&bridge, "denied", message);
    expect_untouched(&own);
    // Nor is what a link leads to.
    client.ask("SAVE a");
    client.expect_error("internal");
    expect_untouched(&own);
    assert!(home.join("victim").is_file());
}

#[test]
fn a_state_that_nobody_waits_for_is_not_kept() {
    let home = Directory::new();
    let text = "read -r request; read -r cancel
        printf %s 'new....llcbrst1' >$file; say 'state 1 {\"tokens\":1,\"bytes\":15}'
        read -r request; printf %s 'new....llcbrst1' >$file
        say 'state 2 {\"tokens\":1,\"bytes\":15}'; read -r end";
    let (bridge, own) = bridge(&home, text, &[]);
    let mut client = bridge.connect();
    client.ask("SAVE b");
    let asked = || fs::read_dir(own.join("saving")).is_ok_and(|mut files| files.next().is_some());
    wait_until("the process is asked", asked);
    drop(client);
    let mut client = bridge.connect();
    let saved = r#"{"status":"ok","message":"State saved","state_tokens":1,"state_bytes":15}"#;
    client.exchange("SAVE c", saved);
    assert_eq!(names(&own), ["a.state", "c.state"]);
}

#[test]
fn a_process_that_dies_in_a_save_leaves_nothing_of_it() {
    let home = Directory::new();
    let text = "read -r request; echo much >$file; exit 3";
    let (bridge, own) = bridge(&home, text, &[]);
    let died = "Model process died: exit status 3";
    drop(save(&bridge, "model_died", died));
    expect_untouched(&own);
}

#[test]
fn what_a_bridge_that_was_killed_had_written_goes_with_the_next_save_of_any_model() {
    let home = Directory::new();
    let text = "read -r request; echo much >$file; read -r end";
    let (bridge, own) = bridge(&home, text, &[]);
    let mut client = bridge.connect();
    client.ask("SAVE b");
    let written = |file: fs::DirEntry| file.metadata().is_ok_and(|data| data.len() > 0);
    wait_until("something is written", || {
        let files = fs::read_dir(own.join("saving")).into_iter().flatten();
        files.flatten().any(written)
    });
    let child = process::children(bridge.pid())[0];
    process::signal(bridge.pid(), "KILL");
    drop(bridge);
    process::wait_for_end(child);
    let left = |directory: &str| {
        fs::read_dir(own.join(directory))
            .expect("it is there")
            .count()
    };
    assert_eq!(left("saving"), 1);
    let second = Directory::new();
    let model = Tiny::alphabet().write(second.join("tiny.gguf"));
    let states = home.join("states");
    let states = states.to_str().expect("test paths are UTF-8");
    let bridge = Bridge::with_model(&second, &model, &["--state-dir", states]);
    let mut client = bridge.connect();
    client.exchange("INFER w", &completed("xyz"));
    client.ask("SAVE c");
    assert!(client.receive().contains("State saved"));
    expect_untouched(&own);
}

/// Expects that no state can be saved or restored for this reason.
fn expect_no_states(home: &Directory, reason: &str) {
    let (program, model) = (home.join("stand-in"), home.join("tiny.gguf"));
    let states = home.join("states");
    let paths = [&program, &states].map(|path| path.to_str().expect("test paths are UTF-8"));
    let options = ["--model-program", paths[0], "--state-dir", paths[1]];
    let bridge = Bridge::with_model(home, &model, &options);
    let mut client = bridge.connect();
    for (verb, what) in [("SAVE", "save"), ("RESTORE", "read")] {
        let message = format!("Cannot {what} the state 'a': {reason}");
        client.exchange(&format!("{verb} a"), &failure("internal", &message));
    }
}

#[test]
fn what_lies_in_the_place_of_the_directory_is_named_and_not_used() {
    let home = Directory::new();
    let (first, own) = bridge(&home, "read -r end", &[]);
    drop(first);
    fs::rename(&own, home.join("away")).expect("it can be renamed");
    std::os::unix::fs::symlink(home.join("away"), &own).expect("it can be made");
    let reason = format!("{} is a symbolic link, not a directory", own.display());
    expect_no_states(&home, &reason);
    assert_eq!(names(&home.join("away")), ["a.state"]);
}

#[test]
fn a_directory_of_another_user_is_not_used() {
    let home = Directory::new();
    let (first, own) = bridge(&home, "read -r end", &[]);
    drop(first);
    if std::os::unix::fs::chown(&own, Some(54321), None).is_err() {
        return skip("only root can give a directory to another user");
    }
    let path = own.display();
    let reason = format!("{path} belongs to uid 54321, not to the user of the bridge");
    expect_no_states(&home, &reason);
}
