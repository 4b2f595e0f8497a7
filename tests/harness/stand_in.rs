//! Model programs that are shell scripts: they speak the wire with the bridge, and do what a test wants
//! of them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::{Directory, program};

/// The model program that was built beside the bridge.
pub(crate) fn model_program() -> PathBuf {
    program().with_file_name("llama-cpp-bridge-model")
}

/// A script, whose standard input is the bridge's socket where it is a model program.
pub(crate) fn script(path: PathBuf, text: &str) -> PathBuf {
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("it can be written");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it can be set");
    path
}

/// A model program of the bridge's own build that has any model loaded at once, and then goes on with
/// `text`: `read -r request` takes the next request.
pub(crate) fn stand_in(home: &Directory, text: &str) -> PathBuf {
    stand_in_of(home, str::to_string, text)
}

/// The same where `say` makes what it says of the model, from what it should say.
pub(crate) fn stand_in_of(
    home: &Directory,
    say: impl FnOnce(&str) -> String,
    text: &str,
) -> PathBuf {
    let version = std::process::Command::new(model_program())
        .arg("--version")
        .output()
        .expect("it tells");
    let version = String::from_utf8(version.stdout).expect("it is text");
    // As in `llama-cpp-bridge-model 0.2.0 (build 0123456789abcdef)`.
    let words: Vec<&str> = version.split_whitespace().collect();
    let (version, build) = (words[1], words[3].trim_end_matches(')'));
    let hello = format!(r#"hello 0 {{"version":"{version}","build":"{build}"}}"#);
    let ready = say(
        r#"ready 0 {"description":"none","architecture":"none","parameters":1,"size_bytes":1,"context_size":8,"training_context_size":8,"embedding_size":1,"vocabulary_size":1,"chat_template":false,"sandbox_lacks":[]}"#,
    );
    let say = |message: &str| format!("printf '%s\\n' '{message}' >&0");
    let start = format!(
        "{}; read -r bridge; read -r load; {}",
        say(&hello),
        say(&ready)
    );
    script(home.join("stand-in"), &format!("{start}\n{text}"))
}
