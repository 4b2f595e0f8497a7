//! The files that the bridge has opened: those very files are loaded, and no others are open in the
//! model process.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{
    Bridge, Directory, Tiny, call_filter, command, completed, loaded, model_program, ok, process,
    program, script, skip, wait_until,
};

/// A model program that waits, once the bridge has opened the model, until [`go_on`] is called.
fn patient(home: &Directory) -> String {
    let gate = home.join("gate");
    let made = Command::new("mkfifo").arg(&gate).status();
    assert!(made.expect("mkfifo runs").success());
    let (gate, real) = (gate.display(), model_program());
    let text = format!("read -r go < '{gate}'\nexec '{}'", real.display());
    let path = script(home.join("patient"), &text);
    path.to_str().expect("test paths are UTF-8").to_string()
}

/// Waits until the model program waits, and lets it go on.
fn go_on(home: &Directory) {
    let mut gate = OpenOptions::new().write(true).open(home.join("gate"));
    let gate = gate.as_mut().expect("it can be opened");
    writeln!(gate, "go").expect("it can be written");
}

/// The names in a directory.
fn names(directory: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(directory).expect("it is there");
    entries.flatten().map(|entry| entry.file_name()).collect()
}

#[test]
fn what_was_looked_at_is_what_is_loaded_whatever_takes_its_path() {
    let home = Directory::new();
    let patient = patient(&home);
    let bridge = Bridge::start(&home, &["--temp", "0", "--model-program", &patient]);
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let mut client = bridge.connect();
    client.ask(&format!("LOAD {}", model.display()));
    // The process can only go on after that, as it opens the other end.
    wait_until("the model is opened", || {
        !process::children(bridge.pid()).is_empty()
    });
    fs::remove_file(&model).expect("it can go");
    let made = Command::new("mkfifo").arg(&model).status();
    assert!(made.expect("mkfifo runs").success());
    go_on(&home);
    client.expect(loaded());
    client.exchange("INFER w", &completed("xyz"));
}

#[test]
fn parts_that_are_links_are_loaded() {
    let home = Directory::new();
    let blobs = home.join("blobs");
    fs::create_dir_all(home.join("snapshot")).expect("a directory can be made");
    fs::create_dir(&blobs).expect("a directory can be made");
    let parts = Tiny::alphabet().write_split(&home.join("snapshot/tiny"));
    for (number, part) in parts.iter().enumerate() {
        let blob = blobs.join(number.to_string());
        fs::rename(part, &blob).expect("a rename");
        let target = Path::new("../blobs").join(number.to_string());
        std::os::unix::fs::symlink(target, part).expect("a link can be made");
    }
    let bridge = Bridge::with_model(&home, &parts[0], &[]);
    bridge.connect().exchange("INFER w", &completed("xyz"));
}

/// A bridge whose temporary files go to `temporary`.
fn with_temporary(home: &Directory, temporary: &Path, options: &[&str]) -> Bridge {
    let mut start = command(home, options);
    start.args(["--temp", "0"]).env("TMPDIR", temporary);
    Bridge::start_command(&mut start, home.socket())
}

#[test]
fn a_bridge_that_is_killed_in_a_load_leaves_nothing_for_long() {
    let home = Directory::new();
    let temporary = home.join("tmp");
    fs::create_dir(&temporary).expect("a directory can be made");
    // Neither of a name, nor of a kind, that is ours.
    fs::create_dir(temporary.join("llama-cpp-bridge.notes")).expect("a directory can be made");
    let user = fs::metadata(&temporary).expect("it is there").uid();
    let taken = format!("llama-cpp-bridge.{user}.0");
    fs::write(temporary.join(taken), "").expect("a file can be made");
    let before = names(&temporary).len();
    let [first, _] = Tiny::alphabet().write_split(&home.join("tiny"));
    let patient = patient(&home);
    let bridge = with_temporary(&home, &temporary, &["--model-program", &patient]);
    let mut client = bridge.connect();
    client.ask(&format!("LOAD {}", first.display()));
    wait_until("the load is under way", || {
        names(&temporary).len() == before + 1 && !process::children(bridge.pid()).is_empty()
    });
    let child = process::children(bridge.pid())[0];
    // Another one that starts meanwhile leaves alone what is in use.
    let second = Directory::new();
    drop(with_temporary(&second, &temporary, &[]));
    assert_eq!(names(&temporary).len(), before + 1);
    process::signal(bridge.pid(), "KILL");
    drop(bridge);
    assert_eq!(names(&temporary).len(), before + 1);
    drop(with_temporary(&second, &temporary, &[]));
    assert_eq!(names(&temporary).len(), before);
    go_on(&home);
    wait_until("the model program ends", || !process::runs(child));
}

#[test]
fn a_directory_for_links_that_cannot_be_made_is_named() {
    let home = Directory::new();
    let [first, _] = Tiny::alphabet().write_split(&home.join("tiny"));
    let missing = home.join("missing");
    let bridge = with_temporary(&home, &missing, &[]);
    let mut client = bridge.connect();
    client.ask(&format!("LOAD {}", first.display()));
    let message = client.expect_error("load_failed");
    let said = format!(
        "cannot start the model process: no directory for a split model in {} (TMPDIR): No such",
        missing.display()
    );
    assert!(message.contains(&said), "{message}");
}

/// Starts a bridge with descriptors open that it knows nothing of, `through` another program if that
/// is given, and expects none of them in the model process.
fn expect_none_passed_on(through: Option<&Command>) {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let bridge = command(&home, &["--temp", "0"]);
    let mut start = Command::new("sh");
    let log = home.join("log");
    start.args([
        "-c",
        "log=$1; shift; exec \"$@\" 5<>\"$log\" 9>>\"$log\" 3<\"$log\" 7<.",
        "sh",
    ]);
    fs::write(&log, "").expect("it can be written");
    start.arg(&log);
    if let Some(through) = through {
        start.arg(through.get_program()).args(through.get_args());
    }
    start.arg(program()).args(bridge.get_args());
    let bridge = Bridge::start_command(&mut start, home.socket());
    let mut client = bridge.connect();
    client.load(&model);
    let opened = |pid: u32| -> Vec<PathBuf> {
        let links = names(Path::new(&format!("/proc/{pid}/fd"))).into_iter();
        let target = |fd| fs::read_link(Path::new(&format!("/proc/{pid}/fd")).join(fd)).ok();
        let targets = links.filter_map(target);
        targets.filter(|path| path.is_absolute()).collect()
    };
    assert!(opened(bridge.pid()).contains(&log), "the bridge lacks it");
    let theirs = opened(bridge.model_process());
    let known = |path: &PathBuf| {
        *path == model || path.starts_with("/dev/null") || path.starts_with("/proc")
    };
    assert!(theirs.iter().all(known), "{theirs:?}");
}

#[test]
fn no_descriptor_that_the_bridge_was_started_with_is_open_in_the_model_process() {
    expect_none_passed_on(None);
}

/// No close_range(2), as before Linux 5.9: ENOSYS.
const NO_CLOSE_RANGE: &str = "
    (0x20, 0, 0, 0),                # the number of the call
    (0x15, 0, 1, 436),
    (0x06, 0, 0, 0x00050026),
    (0x06, 0, 0, 0x7fff0000),
";

#[test]
fn none_is_where_the_kernel_cannot_close_them_all_at_once() {
    match call_filter(NO_CLOSE_RANGE) {
        Some(filtered) => expect_none_passed_on(Some(&filtered)),
        None => skip("the system does not filter close_range(2) here"),
    }
}

#[test]
fn a_model_may_be_a_descriptor_that_was_passed_in() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    // It has no name any more.
    let bridge = command(&home, &["--temp", "0", "--model", "/dev/fd/5"]);
    let mut start = Command::new("sh");
    start.args([
        "-c",
        "model=$1; shift; exec 5<\"$model\"; rm \"$model\"; exec \"$@\"",
        "sh",
    ]);
    start.arg(&model).arg(program()).args(bridge.get_args());
    let bridge = Bridge::start_command(&mut start, home.socket());
    let mut client = bridge.connect();
    client.exchange("STATUS", &ok("Model loaded: /dev/fd/5"));
    client.exchange("INFER w", &completed("xyz"));
}

#[test]
fn whatever_is_said_of_a_model_names_it_by_its_path() {
    let home = Directory::new();
    let [first, _] = Tiny::alphabet().write_split(&home.join("tiny"));
    let model = Tiny::alphabet().write(home.join("whole.gguf"));
    let cut = home.join("cut.gguf");
    let bytes = fs::read(&model).expect("it is there");
    fs::write(&cut, &bytes[..bytes.len() / 2]).expect("it can be written");
    let bridge = Bridge::start(&home, &["--verbose"]);
    let mut client = bridge.connect();
    for path in [&first, &model] {
        client.load(path);
    }
    client.ask(&format!("LOAD {}", cut.display()));
    let message = client.expect_error("load_failed");
    drop(client);
    let log = bridge.all_errors();
    for path in [&first, &model] {
        let named = log.lines().any(|line| {
            line.contains("loaded meta data") && line.contains(path.to_str().expect("it is UTF-8"))
        });
        assert!(named, "{log}");
    }
    for text in [message, log] {
        let inside = ["/proc/self/fd", "/dev/fd", "llama-cpp-bridge."];
        assert!(inside.iter().all(|name| !text.contains(name)), "{text}");
    }
}

/// All that opens something at once: two models, one of them split, a state, metrics, a manager.
#[test]
fn thirty_two_descriptors_are_enough() {
    let home = Directory::new();
    let [first, _] = Tiny::alphabet().write_split(&home.join("tiny"));
    let other = Tiny::mute().chain("w!?").write(home.join("other.gguf"));
    let manager = std::os::unix::net::UnixDatagram::bind(home.join("manager"));
    let _manager = manager.expect("a socket can be bound");
    let states = home.join("states");
    fs::create_dir(&states).expect("a directory can be made");
    let options = command(&home, &["--temp", "0", "--idle-unload", "3600"]);
    let mut start = Command::new("sh");
    start
        .args(["-c", "ulimit -n 32; exec \"$@\"", "sh"])
        .arg(program());
    start
        .args(options.get_args())
        .arg("--state-dir")
        .arg(&states);
    start.arg("--metrics-file").arg(home.join("metrics.prom"));
    start
        .env("NOTIFY_SOCKET", home.join("manager"))
        .env("WATCHDOG_USEC", "100000");
    let bridge = Bridge::start_command(&mut start, home.socket());
    let mut client = bridge.connect();
    for (model, text) in [(&first, "xyz"), (&other, "!?"), (&first, "xyz")] {
        client.load(model);
        client.exchange("INFER w", &completed(text));
        client.ask("SAVE a");
        assert!(client.receive().contains("State saved"));
        client.ask("RESTORE a");
        assert!(client.receive().contains("State restored"));
    }
}

/// The opening of a directory that is no link, which nothing but that of the links is: ENFILE.
const DIRECTORIES: &str = "
    (0x20, 0, 0, 0),                # the number of the call
    (0x15, 0, 4, 257),              # openat(2)
    (0x20, 0, 0, 32),               # its flags
    (0x54, 0, 0, 0x30000),          # O_DIRECTORY | O_NOFOLLOW
    (0x15, 0, 1, 0x30000),
    (0x06, 0, 0, 0x00050017),       # ENFILE
    (0x06, 0, 0, 0x7fff0000),
";

#[test]
fn a_directory_for_links_that_cannot_be_locked_is_not_made_again_and_again() {
    let Some(mut filtered) = call_filter(DIRECTORIES) else {
        return skip("the system does not filter openat(2) here");
    };
    let home = Directory::new();
    let temporary = home.join("tmp");
    fs::create_dir(&temporary).expect("a directory can be made");
    let [first, _] = Tiny::alphabet().write_split(&home.join("tiny"));
    let start = command(&home, &[]);
    filtered
        .arg(program())
        .args(start.get_args())
        .env_remove("LLAMA_CPP_BRIDGE_SOCKET")
        .env("TMPDIR", &temporary);
    let bridge = Bridge::start_command(&mut filtered, home.socket());
    let mut client = bridge.connect();
    client.ask(&format!("LOAD {}", first.display()));
    let message = client.expect_error("load_failed");
    let said = format!(
        "no directory for a split model in {} (TMPDIR): Too many open files in system",
        temporary.display()
    );
    assert!(message.contains(&said), "{message}");
    assert!(names(&temporary).is_empty(), "{:?}", names(&temporary));
    client.exchange("PING", &ok("pong"));
}
