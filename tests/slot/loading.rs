//! Loading: what is not a model, a process that dies of it, and what becomes of the model before.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::tiny::copy;
use crate::harness::{
    Bridge, Client, Directory, Tiny, command, completed, failure, model_program, ok, process,
    program, script, skip, wait_until,
};

/// The reply to a `LOAD` of this path that failed for this reason.
fn failed(path: &Path, reason: &str) -> String {
    failure(
        "load_failed",
        &format!("Failed to load model: {}: {reason}", path.display()),
    )
}

/// Expects that `LOAD` of this path fails for a reason in which `part` stands.
fn expect_failure(client: &mut Client, path: &Path, part: &str) {
    client.ask(&format!("LOAD {}", path.display()));
    let reply = client.receive();
    let start = failed(path, "").replace("\",\"code\":\"load_failed\"}", "");
    let reason = reply
        .strip_prefix(&start)
        .and_then(|r| r.strip_suffix("\",\"code\":\"load_failed\"}"));
    match reason {
        Some(reason) if !reason.is_empty() && reason.contains(part) => {}
        _ => client.fail(&format!(
            "expected load_failed with a reason that has {part:?}"
        )),
    }
}

/// A bridge with a good model, and a client of it.
fn with_good_model(home: &Directory) -> (Bridge, Client) {
    let good = Tiny::alphabet().write(home.join("good.gguf"));
    let bridge = Bridge::with_model(home, &good, &[]);
    let client = bridge.connect();
    (bridge, client)
}

/// Expects that the good model is still there, in the same process, and answers as before.
fn expect_good_model(bridge: &Bridge, client: &mut Client, home: &Directory, child: u32) {
    let told = ok(&format!(
        "Model loaded: {}",
        home.join("good.gguf").display()
    ));
    client.exchange("STATUS", &told);
    client.exchange("INFER abcw", &completed("xyz"));
    assert_eq!(
        bridge.model_process(),
        child,
        "the model process is another one"
    );
    assert_eq!(
        process::zombies(bridge.pid()),
        [0; 0],
        "a process was not reaped"
    );
}

#[test]
fn what_is_not_a_regular_file_is_named_and_left_alone() {
    let home = Directory::new();
    let (bridge, mut client) = with_good_model(&home);
    let child = bridge.model_process();
    let fifo = home.join("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .expect("mkfifo runs")
            .success()
    );
    let socket = home.join("a-socket");
    let _listener = UnixListener::bind(&socket).expect("a socket can be made");
    let cases: [(&Path, &str); 6] = [
        (&home.join("missing.gguf"), "no such file"),
        (&home.join("good.gguf/below"), "directory"),
        (home.path(), "is a directory, not a GGUF file"),
        (&fifo, "is a FIFO, not a GGUF file"),
        (
            Path::new("/dev/zero"),
            "is a character device, not a GGUF file",
        ),
        (&socket, "is a socket, not a GGUF file"),
    ];
    for (path, reason) in cases {
        expect_failure(&mut client, path, reason);
    }
    client.exchange(
        &format!("LOAD {}", home.join("missing.gguf").display()),
        &failed(&home.join("missing.gguf"), "no such file"),
    );
    expect_good_model(&bridge, &mut client, &home, child);
}

#[test]
fn what_is_not_gguf_says_so() {
    let home = Directory::new();
    let (bridge, mut client) = with_good_model(&home);
    let child = bridge.model_process();
    let write = |name: &str, bytes: &[u8]| {
        fs::write(home.join(name), bytes).expect("a file can be written");
        home.join(name)
    };
    expect_failure(&mut client, &write("empty", b""), "not a GGUF file: ");
    expect_failure(&mut client, &write("short", b"GG"), "not a GGUF file: ");
    expect_failure(
        &mut client,
        &write("text", b"#!/bin/sh\necho hello\n"),
        "not a GGUF file: ",
    );
    expect_failure(
        &mut client,
        &write("magic", b"GGUF"),
        "failed to read header",
    );
    expect_failure(
        &mut client,
        &write("version", b"GGUF\x63\0\0\0"),
        "version 99",
    );
    expect_good_model(&bridge, &mut client, &home, child);
}

#[test]
fn a_file_without_permission_says_so() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("secret.gguf"));
    fs::set_permissions(&model, fs::Permissions::from_mode(0o000)).expect("chmod works");
    let root = File::open(&model).is_ok();
    let mut start = if root {
        as_nobody(&home)
    } else {
        command(&home, &[])
    };
    if root && Command::new("setpriv").arg("--version").output().is_err() {
        return skip("root may read every file, and there is no setpriv to be someone else");
    }
    let bridge = Bridge::start_command(&mut start, home.socket());
    let line = format!("LOAD {}", model.display());
    bridge
        .connect()
        .exchange(&line, &failed(&model, "permission denied"));
}

/// A command that starts a copy of the bridge as a user without rights.
fn as_nobody(home: &Directory) -> Command {
    let copy = home.join("bridge");
    fs::copy(program(), &copy).expect("the program can be copied");
    let name = "llama-cpp-bridge-model";
    fs::copy(model_program(), home.join(name)).expect("so can the other");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).expect("chmod works");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(copy).arg("--socket").arg(home.socket());
    command
}

#[test]
fn a_truncated_model_is_not_loaded() {
    let home = Directory::new();
    let (bridge, mut client) = with_good_model(&home);
    let child = bridge.model_process();
    let length = fs::metadata(home.join("good.gguf"))
        .expect("the model is there")
        .len();
    let metadata = "failed to read key-value pairs";
    let weights = "data is not within the file bounds";
    let cuts = [
        (100, metadata),
        (5000, metadata),
        (length / 2, weights),
        (length - 1, weights),
    ];
    for (kept, reason) in cuts {
        let cut = copy(
            &home.join("good.gguf"),
            home.join(&format!("cut-{kept}.gguf")),
        );
        File::options()
            .write(true)
            .open(&cut)
            .and_then(|f| f.set_len(kept))
            .expect("a cut");
        expect_failure(&mut client, &cut, reason);
    }
    expect_good_model(&bridge, &mut client, &home, child);
}

/// A model program that dies by `signal` after `words` on its standard error while `home` holds a file
/// `deadly`, and is the real one else.
fn mortal(home: &Directory, words: &str, signal: &str) -> PathBuf {
    let text = format!(
        "[ ! -e '{}' ] || {{ printf '%s\\n' '{words}' >&2; kill -{signal} $$; }}\nexec '{}'",
        home.join("deadly").display(),
        model_program().display()
    );
    script(home.join("mortal"), &text)
}

#[test]
fn a_load_that_dies_leaves_the_old_model_in_place_and_tells_why() {
    let ends = [
        (
            "/build/some/where.cpp:12: GGML_ASSERT(a == b) failed",
            "ABRT",
            "where.cpp:12: GGML_ASSERT(a == b) failed (killed by SIGABRT)",
        ),
        (
            "  what():  no such thing",
            "ABRT",
            "what():  no such thing (killed by SIGABRT)",
        ),
        ("", "KILL", "killed by SIGKILL"),
    ];
    for (words, signal, reason) in ends {
        let home = Directory::new();
        let good = Tiny::alphabet().write(home.join("good.gguf"));
        let other = Tiny::alphabet().write(home.join("other.gguf"));
        let path = mortal(&home, words, signal);
        let path = path.to_str().expect("test paths are UTF-8");
        let bridge = Bridge::with_model(&home, &good, &["--model-program", path]);
        let child = bridge.model_process();
        let mut client = bridge.connect();
        fs::write(home.join("deadly"), "").expect("it can be written");
        expect_failure(&mut client, &other, reason);
        expect_good_model(&bridge, &mut client, &home, child);
        fs::remove_file(home.join("deadly")).expect("it is there");
        client.load(&other);
    }
}

#[test]
fn a_model_that_never_computes_a_number_is_not_loaded() {
    let home = Directory::new();
    let (bridge, mut client) = with_good_model(&home);
    let child = bridge.model_process();
    let bad = Tiny::alphabet().not_a_number().write(home.join("bad.gguf"));
    expect_failure(&mut client, &bad, "not finite");
    expect_good_model(&bridge, &mut client, &home, child);
}

#[test]
fn a_first_load_that_fails_leaves_no_model() {
    let home = Directory::new();
    let bad = Tiny::alphabet().write(home.join("bad.gguf"));
    let file = File::options().write(true).open(&bad);
    file.and_then(|file| file.set_len(5000)).expect("a cut");
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    expect_failure(&mut client, &bad, "failed to read key-value pairs");
    client.exchange("STATUS", &ok("No model loaded"));
    client.exchange("INFER a", &failure("no_model", "No model loaded"));
    wait_until("the process is gone", || {
        process::children(bridge.pid()).is_empty() && process::zombies(bridge.pid()).is_empty()
    });
}

#[test]
fn the_same_file_is_not_loaded_again() {
    let home = Directory::new();
    let (bridge, mut client) = with_good_model(&home);
    let child = bridge.model_process();
    client.load(&home.join("good.gguf"));
    client.load(&home.join("good.gguf"));
    expect_good_model(&bridge, &mut client, &home, child);
}

#[test]
fn a_file_that_has_changed_is_loaded_again() {
    let home = Directory::new();
    let (bridge, mut client) = with_good_model(&home);
    let child = bridge.model_process();
    // Another file at the same path, as a download puts it.
    let other = Tiny::mute().chain("w!?").write(home.join("other.gguf"));
    fs::rename(other, home.join("good.gguf")).expect("a rename");
    client.exchange("INFER w", &completed("xyz"));
    client.load(&home.join("good.gguf"));
    client.exchange("INFER w", &completed("!?"));
    wait_until("the old process ends", || !process::runs(child));
    assert_ne!(bridge.model_process(), child);
}

#[test]
fn another_model_takes_the_place_of_the_old_one() {
    let home = Directory::new();
    let (bridge, mut client) = with_good_model(&home);
    let child = bridge.model_process();
    let other = Tiny::mute().chain("w!?").write(home.join("other.gguf"));
    client.load(&other);
    client.exchange("STATUS", &ok(&format!("Model loaded: {}", other.display())));
    client.exchange("INFER w", &completed("!?"));
    // It is told to end before the answer; when the kernel is done with that is its own business.
    wait_until("the old process is gone", || {
        let others = process::children(bridge.pid()).len() + process::zombies(bridge.pid()).len();
        !process::runs(child) && others == 1
    });
}

#[test]
fn free_ends_the_model_process() {
    let home = Directory::new();
    let (bridge, mut client) = with_good_model(&home);
    let child = bridge.model_process();
    client.exchange("FREE", &ok("Resources freed"));
    assert!(!process::runs(child), "the model process runs");
    assert_eq!(process::children(bridge.pid()), [0; 0]);
    assert_eq!(process::zombies(bridge.pid()), [0; 0]);
    client.load(&home.join("good.gguf"));
    client.exchange("INFER w", &completed("xyz"));
}

#[test]
fn a_client_that_leaves_ends_its_load() {
    let home = Directory::new();
    let slow = Tiny::slow_to_load().write(home.join("slow.gguf"));
    let (bridge, mut client) = with_good_model(&home);
    let child = bridge.model_process();
    client.ask(&format!("LOAD {}", slow.display()));
    let mut loading = 0;
    wait_until("a second process loads", || {
        loading = process::children(bridge.pid())
            .into_iter()
            .find(|&p| p != child)
            .unwrap_or(0);
        loading != 0
    });
    process::wait_for_work(loading, 10);
    client.vanish();
    process::wait_for_end(loading);
    expect_good_model(&bridge, &mut bridge.connect(), &home, child);
}

#[test]
fn a_path_may_have_blanks_and_any_characters() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("my \u{e9} model 'x' $HOME.gguf"));
    let bridge = Bridge::start(&home, &["--temp", "0"]);
    let mut client = bridge.connect();
    client.load(&model);
    client.exchange("STATUS", &ok(&format!("Model loaded: {}", model.display())));
    client.exchange("INFER w", &completed("xyz"));
}

#[test]
fn a_relative_path_starts_where_the_bridge_was_started() {
    let home = Directory::new();
    Tiny::alphabet().write(home.join("tiny.gguf"));
    let mut start = command(&home, &["--temp", "0"]);
    let bridge = Bridge::start_command(start.current_dir(home.path()), home.socket());
    let mut client = bridge.connect();
    client.load(Path::new("tiny.gguf"));
    client.exchange("STATUS", &ok("Model loaded: tiny.gguf"));
}

#[test]
fn a_link_to_a_model_is_followed() {
    let home = Directory::new();
    Tiny::alphabet().write(home.join("first.gguf"));
    Tiny::mute().chain("w!?").write(home.join("second.gguf"));
    let bridge = Bridge::start(&home, &["--temp", "0"]);
    let mut client = bridge.connect();
    let link = home.join("current.gguf");
    for (target, answer) in [("first.gguf", "xyz"), ("second.gguf", "!?")] {
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(target, &link).expect("a link can be made");
        client.load(&link);
        client.exchange("INFER w", &completed(answer));
    }
}
