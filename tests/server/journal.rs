//! The log for the journal of systemd: a level in front of each line.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::harness::{Bridge, Directory, Tiny, command, ok, process, run, wait_until};

/// What `JOURNAL_STREAM` names.
enum Named {
    Nothing,
    StandardError,
    /// Standard error was led elsewhere since.
    AnotherFile,
}

/// A command that starts the bridge with its standard error in the file `log`.
fn logging(home: &Directory, options: &[&str], named: &Named) -> Command {
    let log = home.join("log");
    let metadata = File::create(&log).and_then(|file| file.metadata());
    let metadata = metadata.expect("a file can be made");
    let inode = match named {
        Named::AnotherFile => metadata.ino() + 1,
        _ => metadata.ino(),
    };
    let bridge = command(home, options);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "exec \"$@\" 2>>\"$LOG\"", "sh"])
        .arg(bridge.get_program())
        .args(bridge.get_args())
        .env("LOG", log)
        .env("JOURNAL_STREAM", format!("{}:{inode}", metadata.dev()));
    if matches!(named, Named::Nothing) {
        shell.env_remove("JOURNAL_STREAM");
    }
    shell
}

fn log(home: &Directory) -> String {
    fs::read_to_string(home.join("log")).expect("it is there")
}

#[test]
fn a_line_has_its_level_only_where_standard_error_is_the_journal() {
    let plain = "llama-cpp-bridge: invalid option '--wrong' (--help lists the options)\n";
    for (named, line) in [
        (Named::StandardError, format!("<3>{plain}")),
        (Named::AnotherFile, plain.to_string()),
        (Named::Nothing, plain.to_string()),
    ] {
        let home = Directory::new();
        let ended = run(&mut logging(&home, &["--wrong"], &named));
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert_eq!(log(&home), line);
    }
}

#[test]
fn what_llama_cpp_logs_has_the_level_that_llama_cpp_gives_it() {
    let home = Directory::new();
    let options = ["--verbose"];
    let mut command = logging(&home, &options, &Named::StandardError);
    let bridge = Bridge::start_command(&mut command, home.socket());
    let mut client = bridge.connect();
    client.load(&Tiny::alphabet().write(home.join("tiny.gguf")));
    let broken = home.join("broken.gguf");
    fs::write(&broken, "GGUF and nothing else").expect("it can be written");
    client.ask(&format!("LOAD {}", broken.display()));
    client.expect_error("load_failed");
    let log = log(&home);
    let marked = |line: &str| {
        let level = line.strip_prefix('<').and_then(|rest| rest.get(..2));
        matches!(level, Some("3>" | "4>" | "6>")) && line[3..].starts_with("llama-cpp-bridge: ")
    };
    assert!(log.lines().all(marked), "{log}");
    assert!(
        log.contains("<6>llama-cpp-bridge: loaded meta data with "),
        "{log}"
    );
    assert!(
        log.contains("\n<3>llama-cpp-bridge: failed to read header\n"),
        "{log}"
    );
}

#[test]
fn a_name_with_a_newline_makes_no_line_of_its_own() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("a\n<2>b.gguf"));
    let mut command = logging(&home, &[], &Named::StandardError);
    let bridge = Bridge::start_command(&mut command, home.socket());
    let mut client = bridge.connect();
    client.ask_netstring(&format!("LOAD {}", model.display()));
    client.expect(&ok("Model loaded successfully"));
    process::signal(bridge.model_process(), "KILL");
    wait_until("it is told", || log(&home).contains("died"));
    let line = format!(
        "<3>llama-cpp-bridge: {}/a\\n<2>b.gguf: model process died: killed by SIGKILL\n",
        home.path().display()
    );
    assert_eq!(log(&home), line);
}
