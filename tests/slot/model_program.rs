//! The model program: which one is taken, what runs after an upgrade, and what is said of one that
//! cannot serve this bridge.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{
    Bridge, Directory, Ended, Tiny, completed, model_program, program, run, script,
};

const NAME: &str = "llama-cpp-bridge-model";

/// A folder `bin` with a copy of the bridge.
fn lone_bridge(home: &Directory) -> PathBuf {
    let folder = home.join("bin");
    fs::create_dir(&folder).expect("it can be made");
    let copy = folder.join("llama-cpp-bridge");
    fs::copy(program(), &copy).expect("it can be copied");
    copy
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it can be set");
}

fn command(bridge: &Path, home: &Directory) -> Command {
    let mut command = Command::new(bridge);
    command
        .env_remove("LLAMA_CPP_BRIDGE_SOCKET")
        .args(["--threads", "1", "--temp", "0", "-n", "3", "--socket"])
        .arg(home.socket());
    command
}

/// What a bridge says that does not start.
fn refusal(command: &mut Command) -> String {
    let Ended { code, errors, .. } = run(command);
    assert_eq!(code, Some(1), "{errors}");
    let text = errors.strip_prefix("llama-cpp-bridge: ");
    text.expect("it names itself").trim_end().to_string()
}

/// What LOAD is answered where this is the model program.
fn load_failure(text: &str) -> String {
    let home = Directory::new();
    let path = script(home.join("program"), text);
    let model = Tiny::alphabet().write(home.join("model.gguf"));
    let mut command = command(program(), &home);
    command.arg("--model-program").arg(&path);
    let bridge = Bridge::start_command(&mut command, home.socket());
    let mut client = bridge.connect();
    client.ask(&format!("LOAD {}", model.display()));
    let message = client.expect_error("load_failed");
    client.exchange("PING", r#"{"status":"ok","message":"pong"}"#);
    let before = format!("Failed to load model: {}: ", model.display());
    let reason = message.strip_prefix(&before).expect("it names the model");
    reason.replace(path.to_str().expect("test paths are UTF-8"), "PROGRAM")
}

#[test]
fn without_a_model_program_the_bridge_says_where_it_looked() {
    let home = Directory::new();
    let bridge = lone_bridge(&home);
    let said = refusal(&mut command(&bridge, &home));
    let beside = home.join("bin").join(NAME);
    let start = format!("no model program: looked for {}, ", beside.display());
    assert!(said.starts_with(&start), "{said}");
    let end = format!("/../libexec/llama-cpp-bridge/{NAME} (--model-program names another)");
    assert!(said.ends_with(&end), "{said}");
}

#[test]
fn a_model_program_that_cannot_be_one_or_that_others_could_change_is_refused() {
    let home = Directory::new();
    let path = script(home.join("program"), "exit 0");
    let shown = path.display().to_string();
    let said = |path: &Path| {
        let mut command = command(program(), &home);
        refusal(command.arg("--model-program").arg(path))
    };
    for (mode, reason) in [
        (0o644, "is not executable (mode 0644)"),
        (0o757, "writable by others (mode 0757); chmod go-w it"),
    ] {
        set_mode(&path, mode);
        let expected = format!("--model-program: {shown}: {reason}");
        assert_eq!(said(&path), expected);
    }
    let nothing = home.join("nothing");
    let expected = format!("--model-program: {}: no such file", nothing.display());
    assert_eq!(said(&nothing), expected);
    let folder = home.path();
    let expected = format!(
        "--model-program: {}: is a directory, not a program",
        folder.display()
    );
    assert_eq!(said(folder), expected);
}

#[test]
fn a_program_that_is_no_model_program_is_named() {
    let expected = "PROGRAM is not a llama-cpp-bridge-model (exit status 0)";
    for text in ["exit 0", "exec 0<&-; exit 0"] {
        assert_eq!(load_failure(text), expected, "{text}");
    }
    let expected = "PROGRAM: no such luck (exit status 3)";
    assert_eq!(load_failure("echo no such luck >&2; exit 3"), expected);
    let wrong = [
        "echo hello >&0; read _",
        "echo busy 0 1 >&0; read _",
        "cat >&0",
        // One byte more than a greeting may have, and no newline.
        "printf '%1025s' '' >&0; read _",
    ];
    for text in wrong {
        let reason = load_failure(text);
        assert_eq!(reason, "PROGRAM is not a llama-cpp-bridge-model", "{text}");
    }
}

#[test]
fn a_program_that_never_says_what_it_is_is_given_up() {
    for text in ["kill -STOP $$", "read _; read _; read _"] {
        let home = Directory::new();
        let path = script(home.join("program"), text);
        let model = Tiny::alphabet().write(home.join("model.gguf"));
        let mut command = command(program(), &home);
        command.args(["--load-timeout", "1", "--model-program"]);
        let bridge = Bridge::start_command(command.arg(&path), home.socket());
        let mut client = bridge.connect();
        client.ask(&format!("LOAD {}", model.display()));
        let expected = format!(
            "Failed to load model: {}: {} did not identify itself as a \
             llama-cpp-bridge-model within 1 s",
            model.display(),
            path.display()
        );
        assert_eq!(client.expect_error("timeout"), expected);
    }
}

#[test]
fn a_group_may_write_to_a_model_program_if_it_is_the_owners_alone() {
    let home = Directory::new();
    let path = script(home.join("program"), "exit 0");
    let (owner, group) = {
        let metadata = fs::metadata(&path).expect("it is there");
        (metadata.uid(), metadata.gid())
    };
    set_mode(&path, 0o775);
    let mut start = command(program(), &home);
    start.arg("--model-program").arg(&path);
    if group == 0 || group == owner {
        drop(Bridge::start_command(&mut start, home.socket()));
    }
    // Only root can give it to a group of others.
    if owner == 0 {
        std::os::unix::fs::chown(&path, None, Some(65534)).expect("root can");
        let reason = "writable by others (mode 0775); chmod go-w it";
        let expected = format!("--model-program: {}: {reason}", path.display());
        assert_eq!(refusal(&mut start), expected);
    }
}

#[test]
fn a_model_program_that_is_written_over_in_its_place_is_not_run() {
    let home = Directory::new();
    let path = script(home.join("program"), "exit 0");
    let model = Tiny::alphabet().write(home.join("model.gguf"));
    let mut command = command(program(), &home);
    command.arg("--model-program").arg(&path);
    let bridge = Bridge::start_command(&mut command, home.socket());
    script(path.clone(), "exit 17");
    let mut client = bridge.connect();
    client.ask(&format!("LOAD {}", model.display()));
    let expected = format!(
        "Failed to load model: {}: cannot start the model process: {} has been modified since \
         the bridge started; restart the bridge",
        model.display(),
        path.display()
    );
    assert_eq!(client.expect_error("load_failed"), expected);
}

#[test]
fn the_bridge_itself_is_no_model_program() {
    let home = Directory::new();
    let mut start = command(program(), &home);
    let expected = format!(
        "--model-program: {}: is the bridge itself; the model program is called {NAME}",
        program().display()
    );
    assert_eq!(
        refusal(start.arg("--model-program").arg(program())),
        expected
    );
}

#[test]
fn a_model_program_of_another_build_is_refused_with_both() {
    let hello = r#"hello 0 {"version":"0.1.9","build":"0123456789abcdef"}"#;
    let reason = load_failure(&format!("echo '{hello}' >&0; read _; read _"));
    let version = env!("CARGO_PKG_VERSION");
    let expected =
        format!("PROGRAM is 0.1.9 (build 0123456789abcdef), this bridge is {version} (build ");
    assert!(reason.starts_with(&expected), "{reason}");
    assert!(reason.contains("install both from the same build and restart the bridge"));
}

#[test]
fn a_model_program_for_a_newer_processor_is_told_as_such() {
    let expected = "killed by SIGILL: PROGRAM may be built for a newer processor than this";
    assert_eq!(load_failure("kill -ILL $$"), expected);
}

#[test]
fn an_upgrade_under_a_running_bridge_mixes_nothing() {
    let home = Directory::new();
    let bridge_file = lone_bridge(&home);
    let model_file = bridge_file.with_file_name(NAME);
    fs::copy(model_program(), &model_file).expect("it can be copied");
    let model = Tiny::alphabet().write(home.join("model.gguf"));
    let mut command = command(&bridge_file, &home);
    let bridge = Bridge::start_command(&mut command, home.socket());
    let other = script(home.join("other"), "exit 0");
    fs::rename(&other, &model_file).expect("it can be replaced");
    fs::remove_file(&bridge_file).expect("it can be removed");
    let mut client = bridge.connect();
    client.load(&model);
    client.exchange("INFER a", &completed("bcd"));
    client.exchange("FREE", r#"{"status":"ok","message":"Resources freed"}"#);
    fs::remove_file(&model_file).expect("it can be removed");
    client.load(&model);
    client.exchange("INFER a", &completed("bcd"));
}

#[test]
fn of_several_installed_programs_the_one_for_the_newest_processor_is_taken() {
    let home = Directory::new();
    let bridge_file = lone_bridge(&home);
    let libexec = home.join("libexec/llama-cpp-bridge");
    fs::create_dir_all(&libexec).expect("it can be made");
    let plain = script(libexec.join(NAME), "exit 0");
    let model = Tiny::alphabet().write(home.join("model.gguf"));
    let taken = |home: &Directory| {
        let mut command = command(&bridge_file, home);
        refusal(command.arg("--model").arg(&model))
    };
    let named = |path: &Path| {
        let path = path.display();
        format!("{path} is not a llama-cpp-bridge-model (exit status 0)")
    };
    assert!(taken(&home).ends_with(&named(&plain)), "{}", taken(&home));
    let v2 = script(libexec.join(format!("{NAME}-x86-64-v2")), "exit 0");
    let expected = if cfg!(target_arch = "x86_64") {
        &v2
    } else {
        &plain
    };
    assert!(taken(&home).ends_with(&named(expected)), "{}", taken(&home));
}

#[test]
fn by_hand_the_model_program_only_tells_what_it_is() {
    let version = run(Command::new(model_program()).arg("--version"));
    assert_eq!(version.code, Some(0));
    let expected = format!("{NAME} {} (build ", env!("CARGO_PKG_VERSION"));
    assert!(version.output.starts_with(&expected), "{version:?}");
    let started = run(&mut Command::new(model_program()));
    assert_eq!(started.code, Some(2));
    assert_eq!(
        started.errors,
        "llama-cpp-bridge-model: started by llama-cpp-bridge(1), not by hand\n"
    );
}

#[test]
fn a_bridge_of_another_build_is_refused_by_the_model_program() {
    // The other way round: the bridge is played here.
    use std::io::{BufRead, BufReader, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    let (mut ours, theirs) = UnixStream::pair().expect("a pair can be made");
    let hello = r#"bridge 0 {"version":"9.0.0","build":"0123456789abcdef"}"#;
    writeln!(ours, "{hello}").expect("it can be written");
    let mut command = Command::new(model_program());
    let ended = command.stdin(OwnedFd::from(theirs)).output();
    let ended = ended.expect("it can be started");
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(
        said.contains("the bridge 9.0.0 (build 0123456789abcdef)"),
        "{said}"
    );
    let mut line = String::new();
    BufReader::new(ours)
        .read_line(&mut line)
        .expect("it said which it is");
    assert!(line.starts_with(r#"hello 0 {"version":""#), "{line}");
}
