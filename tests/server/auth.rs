//! Tokens: what a client has to know before it may use the bridge.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{
    Bridge, Client, Directory, Tiny, command, completed, failure, ok, process, run, wait_until,
};

/// What a wrong token costs.
const PENALTY: Duration = Duration::from_secs(1);

/// A file of tokens.
fn tokens(home: &Directory, text: &str, mode: u32) -> PathBuf {
    let path = home.join("tokens");
    fs::write(&path, text).expect("a file can be written");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("and made private");
    path
}

/// A bridge that knows two tokens.
fn guarded(home: &Directory, options: &[&str]) -> Bridge {
    let file = tokens(home, "first-token\n\nthe-second!\n", 0o600);
    let file = file.to_str().expect("test paths are UTF-8");
    Bridge::start(home, &[&["--auth-file", file], options].concat())
}

fn not_yet() -> String {
    failure(
        "unauthenticated",
        "Not authenticated: this bridge needs AUTH TOKEN first",
    )
}

fn wrong() -> String {
    failure("denied", "Invalid token")
}

/// Waits until the bridge has looked at a wrong token, and told so.
fn wait_for_refusal(bridge: &Bridge) {
    wait_until("the wrong token is told", || {
        bridge.errors().contains("AUTH: invalid token from uid=")
    });
}

#[test]
fn until_a_token_is_shown_all_but_ping_is_unauthenticated() {
    let home = Directory::new();
    let bridge = guarded(&home, &[]);
    let mut client = bridge.connect();
    client.exchange("PING", &ok("pong"));
    for request in [
        "HELP", "STATUS", "INFO", "QUIT", "LOAD x", "NOTHING", "FREE",
    ] {
        client.exchange(request, &not_yet());
    }
    client.exchange("AUTH", &failure("bad_request", "No token provided"));
    client.exchange("AUTH the-second!", &ok("Authenticated"));
    client.exchange("STATUS", &ok("No model loaded"));
    // It holds for the connection, not for the bridge.
    drop(client);
    bridge.connect().exchange("STATUS", &not_yet());
}

#[test]
fn requests_may_be_sent_right_behind_the_token() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let model = model.to_str().expect("test paths are UTF-8");
    let bridge = guarded(&home, &["--temp", "0", "--model", model]);
    let mut client = bridge.connect();
    client.send("STATUS\nAUTH first-token\nINFER w\n17:AUTH the-second!!,PING\nPING\n");
    client.expect(&not_yet());
    client.expect(&ok("Authenticated"));
    client.expect(&completed("xyz"));
    client.expect(&wrong());
    client.expect(&ok("pong"));
    client.expect(&ok("pong"));
    // What was shown before still counts.
    client.exchange("INFER w", &completed("xyz"));
}

#[test]
fn a_wrong_token_costs_a_second() {
    let home = Directory::new();
    let bridge = guarded(&home, &[]);
    for guess in [
        "first-toke",
        "first-token1",
        "first-token ",
        "FIRST-TOKEN",
        "the-second!\u{e9}",
    ] {
        let mut client = bridge.connect();
        let start = Instant::now();
        client.send(format!("AUTH {guess}\nSTATUS\n"));
        client.expect(&wrong());
        assert!(start.elapsed() >= PENALTY, "{:?}", start.elapsed());
        client.expect(&not_yet());
    }
}

#[test]
fn hanging_up_does_not_save_the_wait() {
    let home = Directory::new();
    let bridge = guarded(&home, &[]);
    let start = Instant::now();
    let mut guesser = bridge.connect();
    guesser.ask("AUTH guess");
    wait_for_refusal(&bridge);
    guesser.vanish();
    let mut client = bridge.connect();
    client.exchange("PING", &ok("pong"));
    let at_once = start.elapsed();
    client.exchange("AUTH first-token", &ok("Authenticated"));
    assert!(start.elapsed() >= PENALTY, "{:?}", start.elapsed());
    assert!(at_once < PENALTY, "PING had to wait: {at_once:?}");
}

#[test]
fn the_bridge_does_not_wait_with_the_client() {
    let home = Directory::new();
    let mut bridge = guarded(&home, &[]);
    let mut client = bridge.connect();
    let start = Instant::now();
    client.ask("AUTH guess");
    wait_for_refusal(&bridge);
    process::signal(bridge.pid(), "TERM");
    bridge.expect_stop(&[]);
    client.expect(&failure("internal", "The bridge is stopping"));
    assert!(start.elapsed() < PENALTY, "{:?}", start.elapsed());
}

#[test]
fn a_client_that_only_guesses_gives_way() {
    let home = Directory::new();
    let bridge = guarded(&home, &["--idle-timeout", "1"]);
    let mut guesser = bridge.connect();
    guesser.send("AUTH a\nAUTH b\nAUTH c\nAUTH d\nAUTH e\nAUTH f\nAUTH g\nAUTH h\n");
    let start = Instant::now();
    let mut client = bridge.connect();
    client.exchange("PING", &ok("pong"));
    assert!(start.elapsed() < 6 * PENALTY, "{:?}", start.elapsed());
}

#[test]
fn a_guess_that_is_still_to_be_answered_costs_no_processor_time() {
    let home = Directory::new();
    let bridge = guarded(&home, &["--idle-timeout", "2"]);
    let mut guesser = bridge.connect();
    let mut client = bridge.connect();
    guesser.exchange("AUTH a", &wrong());
    guesser.expect_silence(PENALTY / 2);
    // Its time ends before the answer to this comes.
    let before = process::ticks(bridge.pid());
    guesser.exchange("AUTH b", &wrong());
    let used = process::ticks(bridge.pid()) - before;
    guesser.expect_end();
    assert!(used < 10, "{used} ticks");
    client.exchange("PING", &ok("pong"));
}

#[test]
fn tokens_stand_in_no_message() {
    let home = Directory::new();
    let bridge = guarded(&home, &["--verbose"]);
    let mut client: Client = bridge.connect();
    client.ask("AUTH a-guess");
    let told = client.receive();
    client.exchange("AUTH first-token", &ok("Authenticated"));
    client.exchange("QUIT", &ok("Goodbye"));
    let pid = bridge.pid();
    let errors = {
        let mut bridge = bridge;
        bridge.expect_stop(&[]);
        bridge.errors()
    };
    assert!(errors.contains("AUTH: invalid token from uid="), "{errors}");
    for text in [&errors, &told] {
        assert!(
            !text.contains("a-guess") && !text.contains("-token"),
            "{pid}: {text}"
        );
    }
}

#[test]
fn a_bridge_with_tokens_leaves_no_core_file() {
    let home = Directory::new();
    let bridge = guarded(&home, &[]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", bridge.pid()));
    let limits = limits.expect("Linux tells the limits");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let words: Vec<&str> = core.unwrap_or_default().split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{limits}");
}

#[test]
fn a_bridge_without_tokens_takes_any() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.exchange("AUTH whatever", &ok("No token is needed here"));
    client.exchange("STATUS", &ok("No model loaded"));
}

#[test]
fn a_file_of_tokens_that_is_no_secret_is_refused() {
    let home = Directory::new();
    for (text, mode, reason) in [
        (
            "x\n",
            0o644,
            "accessible to others (mode 0644); chmod 600 it",
        ),
        (
            "x\n",
            0o620,
            "accessible to others (mode 0620); chmod 600 it",
        ),
        ("", 0o600, "has no tokens; write one per line"),
        ("\n\n", 0o600, "has no tokens; write one per line"),
        (
            "good\nnot good\n",
            0o600,
            "line 2: a token may contain only visible ASCII characters",
        ),
    ] {
        let file = tokens(&home, text, mode);
        let shown = file.to_str().expect("test paths are UTF-8");
        let ended = run(&mut command(&home, &["--auth-file", shown]));
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let expected = format!("llama-cpp-bridge: --auth-file: {shown}: {reason}\n");
        assert_eq!(ended.errors, expected);
    }
}

#[test]
fn a_file_of_tokens_that_is_no_file_is_refused() {
    let home = Directory::new();
    let fifo = home.join("fifo");
    let made = run(Command::new("mkfifo").args(["-m", "600"]).arg(&fifo));
    assert_eq!(made.code, Some(0), "{made:?}");
    for (path, reason) in [
        (
            home.path().to_path_buf(),
            "is a directory, not a regular file",
        ),
        (fifo, "is a FIFO, not a regular file"),
        (
            home.join("missing"),
            "No such file or directory (os error 2)",
        ),
    ] {
        let shown = path.to_str().expect("test paths are UTF-8");
        let ended = run(&mut command(&home, &["--auth-file", shown]));
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert_eq!(
            ended.errors,
            format!("llama-cpp-bridge: --auth-file: {shown}: {reason}\n")
        );
    }
}
