//! llambo with a token, for bridges that want one.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Bridge, Directory, Ended, Tiny};
use crate::llambo::commands::{ask, expect_failure, expect_text, feed, llambo};

fn private(path: PathBuf, text: &str) -> PathBuf {
    fs::write(&path, text).expect("a file can be written");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("and made private");
    path
}

/// A bridge with a model that knows one token.
fn guarded(home: &Directory) -> Bridge {
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let file = private(home.join("bridge-tokens"), "open-sesame\n");
    let file = file.to_str().expect("test paths are UTF-8");
    Bridge::with_model(home, &model, &["--auth-file", file])
}

/// llambo with a token in the file that the environment names.
fn with_token(home: &Directory, token: &str, arguments: &[&str]) -> Command {
    let file = private(home.join("token"), &format!("{token}\n"));
    let mut command = llambo(home, arguments);
    command.env("LLAMBO_AUTH_FILE", file);
    command
}

#[test]
fn every_command_shows_the_token_first() {
    let home = Directory::new();
    let _bridge = guarded(&home);
    for (arguments, input, output) in [
        (&["ping"][..], "", "pong\n"),
        (&["infer", "--temp", "0", "w"], "", "xyz\n"),
        (&["tokenize", "ab"], "", "100 101\n"),
        (&["map", "--temp", "0"], "v\nw\n", "wxyz\nxyz\n"),
        (
            &["raw"],
            "INFER w\nPING\n",
            "{\"status\":\"ok\",\"message\":\"Inference completed\",\"data\":\"xyz\"}\n\
             {\"status\":\"ok\",\"message\":\"pong\"}\n",
        ),
        (&["free"], "", "Resources freed\n"),
        (&["quit"], "", "Goodbye\n"),
    ] {
        let ended = feed(&mut with_token(&home, "open-sesame", arguments), input);
        expect_text(&ended, output);
    }
}

#[test]
fn several_bridges_are_each_shown_the_token() {
    let (home, other) = (Directory::new(), Directory::new());
    let (_bridge, _other) = (guarded(&home), guarded(&other));
    let sockets = [home.socket(), other.socket()];
    let sockets = sockets
        .each_ref()
        .map(|path| path.to_str().expect("test paths are UTF-8"));
    let options = ["-s", sockets[0], "-s", sockets[1]];
    let asked = |words: &[&str]| {
        let arguments = [&options[..], words].concat();
        feed(&mut with_token(&home, "open-sesame", &arguments), "")
    };
    let each = format!("{}: pong\n{}: pong\n", sockets[0], sockets[1]);
    expect_text(&asked(&["ping"]), &each);
    expect_text(&asked(&["infer", "--temp", "0", "w"]), "xyz\n");
}

#[test]
fn without_the_token_or_with_a_wrong_one_llambo_says_so() {
    let home = Directory::new();
    let _bridge = guarded(&home);
    let without = ask(&home, &["infer", "w"]);
    expect_failure(
        &without,
        1,
        "llambo: Not authenticated: this bridge needs AUTH TOKEN first",
    );
    expect_failure(&without, 1, "Pass it with: llambo --auth-file FILE");
    for (arguments, input) in [
        (&["infer", "w"][..], ""),
        (&["status"], ""),
        (&["raw"], "PING\n"),
        (&["map"], "w\n"),
    ] {
        let wrong = feed(&mut with_token(&home, "open-barley", arguments), input);
        expect_failure(&wrong, 1, "Invalid token");
        assert!(!wrong.errors.contains("open-barley"), "{wrong:?}");
    }
}

#[test]
fn a_bridge_that_needs_no_token_does_not_mind_one() {
    let home = Directory::new();
    let _bridge = Bridge::start(&home, &[]);
    let ended = feed(&mut with_token(&home, "open-sesame", &["ping"]), "");
    expect_text(&ended, "pong\n");
}

fn with_file(home: &Directory, file: &Path) -> Ended {
    let file = file.to_str().expect("test paths are UTF-8");
    // The option goes before the environment.
    feed(
        &mut with_token(home, "environment", &["--auth-file", file, "ping"]),
        "",
    )
}

#[test]
fn a_file_of_the_token_that_others_can_read_is_refused() {
    let home = Directory::new();
    let _bridge = guarded(&home);
    let file = private(home.join("mine"), "open-sesame\n");
    expect_text(&with_file(&home, &file), "pong\n");
    for mode in [0o640, 0o604, 0o666] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("it can be opened");
        let message = format!(
            "llambo: --auth-file: {}: accessible to others (mode {mode:04o}); chmod 600 it",
            file.display()
        );
        expect_failure(&with_file(&home, &file), 2, &message);
    }
}

#[test]
fn a_file_without_a_token_is_refused() {
    let home = Directory::new();
    let _bridge = guarded(&home);
    for (text, reason) in [
        ("", "has no tokens"),
        ("\n\n", "has no tokens"),
        (
            "two words\n",
            "line 1: a token may contain only visible ASCII",
        ),
    ] {
        let file = private(home.join("mine"), text);
        expect_failure(&with_file(&home, &file), 2, reason);
    }
    let missing = home.join("missing");
    let message = format!("--auth-file: {}: No such file", missing.display());
    expect_failure(&with_file(&home, &missing), 2, &message);
}
