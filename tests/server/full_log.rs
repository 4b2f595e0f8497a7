//! A standard error that nobody reads.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use crate::harness::{Bridge, Directory, Tiny, command, completed, ok, process, run, wait_until};

/// Reads what is there.
fn drain(pipe: &mut File) -> String {
    let mut bytes = Vec::new();
    // It ends with an error, as there is nothing more.
    let _ = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_full_standard_error_holds_nobody_up_and_what_was_lost_is_counted() {
    let home = Directory::new();
    let path = home.join("errors");
    let made = run(Command::new("mkfifo").arg(&path));
    assert_eq!(made.code, Some(0), "{made:?}");
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true);
    let pipe = options.custom_flags(libc::O_NONBLOCK).open(&path);
    let mut pipe = pipe.expect("it can be opened");
    while pipe.write(b"full of what was there before\n").is_ok() {}

    let bridge = command(&home, &["-v"]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "exec \"$@\" 2>\"$ERRORS\"", "sh"])
        .arg(bridge.get_program())
        .args(bridge.get_args())
        .env("ERRORS", &path);
    let mut bridge = Bridge::start_command(&mut shell, home.socket());
    let mut client = bridge.connect();
    client.load(&Tiny::alphabet().write(home.join("tiny.gguf")));
    client.exchange("INFER w", &completed("xyz"));
    let mut log = drain(&mut pipe);
    client.exchange("PING", &ok("pong"));
    wait_until("it says what was lost", || {
        log.push_str(&drain(&mut pipe));
        log.contains("PING")
    });
    let count = log
        .lines()
        .filter_map(|line| line.strip_suffix(" lines were lost: standard error was full"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok());
    // llama.cpp alone logs more as it loads a model.
    assert!(count.sum::<u32>() > 20, "{log}");
    while pipe.write(b"full again\n").is_ok() {}
    client.exchange("PING", &ok("pong"));
    client.vanish();
    process::signal(bridge.pid(), "TERM");
    bridge.expect_stop(&[]);
}
