//! Floods: whatever the model process writes without end, the bridge answers, with little memory and a
//! short log, and goes on.

use std::process::Command;
use std::time::{Duration, Instant};

use super::boundary::bridge_with;
use crate::harness::{
    Bridge, Directory, Tiny, ok, process, run, skip, stand_in, stand_in_of, wait_until,
};

/// Most memory that the bridge may take for what a stand-in says, in bytes.
const MEMORY: u64 = 24 << 20;

/// Most that it may log of that, in bytes.
const LOG: usize = 1 << 20;

/// Has the stand-in write without end, to the bridge by descriptor 3, and expects that its request is
/// answered with this error, soon, that the bridge takes little memory and logs little, and that
/// SIGTERM ends it at once.
fn expect_unharmed(request: &str, flood: &str, code: &str, reason: &str) {
    let home = Directory::new();
    let text = format!("exec 3>&0; read -r request; {flood}");
    let options = ["--stall-timeout", "2", "--request-timeout", "4", "-v"];
    let mut bridge = bridge_with(&home, &stand_in(&home, &text), &options);
    let before = process::peak_memory(bridge.pid());
    let mut client = bridge.connect();
    let start = Instant::now();
    client.ask(request);
    let mut reply = client.receive();
    while reply.contains(r#""status":"partial""#) {
        reply = client.receive();
    }
    let end = format!(r#"","code":"{code}"}}"#);
    let right = reply.contains(reason) && reply.ends_with(&end);
    assert!(right, "{flood}: {reply}");
    let took = start.elapsed();
    assert!(took < Duration::from_secs(7), "{flood}: {took:?}");
    client.exchange("PING", &ok("pong"));
    let taken = process::peak_memory(bridge.pid()) - before;
    assert!(taken < MEMORY, "{flood}: {} MB", taken >> 20);
    let logged = bridge.errors().len();
    assert!(logged < LOG, "{flood}: {logged} bytes of log");
    process::signal(bridge.pid(), "TERM");
    bridge.expect_stop(&[]);
}

#[test]
fn a_flood_of_messages_is_stopped() {
    let yes = |line: &str| format!("yes '{line}' >&3");
    let endless = |start: &str, byte: &str| {
        format!("printf '%s' '{start}' >&3; tr '\\0' '{byte}' </dev/zero >&3")
    };
    // As much as a message can have.
    let (text, zeros) = ("a".repeat(16 << 10), ",0".repeat(8191));
    let list = |start: &str| format!("printf '%s' '{start}' >&3; yes ,0 | tr -d '\\n' >&3");
    let rows = [
        ("INFER w", endless("", "a"), "a message of more than"),
        (
            "INFER w",
            endless(r#"done 1 {"text":""#, "a"),
            "a message of more than",
        ),
        (
            "INFER w",
            endless(r#"done 1 {"a":"#, "["),
            "a message of more than",
        ),
        (
            "INFER w",
            "cat /dev/zero >&3".to_string(),
            "a message of more than",
        ),
        ("INFER w", yes("busy 0 1"), "busy too often"),
        (
            "INFER w",
            yes("busy 0 18446744073709551615"),
            "busy too often",
        ),
        (
            "INFER w",
            yes(r#"notice 0 "a""#),
            "a notice while it serves requests",
        ),
        ("INFER w", yes(r#"text 1 "a""#), "an answer of another kind"),
        ("STREAM w", yes(r#"piece 1 "a""#), "more pieces than tokens"),
        ("INFER w", yes(r#"piece 1 "a""#), "more pieces than tokens"),
        ("STREAM w", yes(r#"piece 1 """#), "an empty part"),
        ("TOKENIZE w", list("tokens 1 [0"), "a message of more than"),
        (
            "EMBED w",
            list(r#"embedding 1 {"values":[0"#),
            "a message of more than",
        ),
        (
            "DETOKENIZE 0",
            endless(r#"text 1 ""#, "a"),
            "a message of more than",
        ),
        (
            "STREAM w",
            yes(&format!(r#"piece 1 "{text}""#)),
            "2162688 are possible",
        ),
        (
            "DETOKENIZE 0",
            yes(&format!(r#"piece 1 "{text}""#)),
            "2097152 are possible",
        ),
        (
            "TOKENIZE w",
            yes(&format!("more_tokens 1 [0{zeros}]")),
            "524288 are possible",
        ),
    ];
    for (request, flood, reason) in rows {
        expect_unharmed(request, &flood, "model_died", reason);
    }
}

#[test]
fn a_flood_on_standard_error_is_slowed_and_its_log_bounded() {
    for flood in [
        "yes >&2",
        "yes '' >&2",
        "tr '\\0' a </dev/zero >&2",
        "cat /dev/zero >&2",
    ] {
        let silent = "The model process was unresponsive for 2 s";
        expect_unharmed("INFER w", flood, "timeout", silent);
    }
}

#[test]
fn bytes_out_of_band_are_bytes_like_all_others() {
    let try_one = "import socket; a, b = socket.socketpair(); a.send(b'a', socket.MSG_OOB)";
    let tried = run(Command::new("python3").args(["-c", try_one]));
    if tried.code != Some(0) {
        return skip("Unix sockets take nothing out of band here");
    }
    let send = |fd: u32| {
        format!(
            "exec python3 -c 'import socket; s = socket.socket(fileno={fd})
while True: s.send(b\"a\", socket.MSG_OOB)'"
        )
    };
    expect_unharmed("INFER w", &send(3), "model_died", "a message of more than");
    let silent = "The model process was unresponsive for 2 s";
    expect_unharmed("INFER w", &send(2), "timeout", silent);
}

#[test]
fn lines_that_are_not_logged_are_counted_and_control_characters_written_out() {
    let home = Directory::new();
    let text = "read -r request; printf '\\033[2Jred\\r\\n' >&2; head -c 3000 /dev/zero | tr '\\0' b >&2; \
                yes c | head -n 9000 >&2; exit 3";
    let bridge = bridge_with(&home, &stand_in(&home, text), &["-v"]);
    let mut client = bridge.connect();
    client.ask("INFER w");
    client.expect_error("model_died");
    client.vanish();
    let errors = bridge.all_errors();
    assert!(
        errors.contains(r"\u{1b}[2Jred"),
        "{}",
        &errors[..400.min(errors.len())]
    );
    assert!(!errors.contains('\u{1b}'));
    assert!(errors.contains("bbb... (3001 bytes)\n"));
    let dropped: usize = errors
        .lines()
        .filter_map(|line| line.strip_suffix(" lines of the model process were not logged"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok())
        .sum();
    let logged = errors
        .lines()
        .filter(|line| *line == "llama-cpp-bridge: c")
        .count();
    assert!(dropped > 0 && logged < 6000, "{dropped} {logged}");
    assert_eq!(dropped + logged, 9000 - 1);
}

#[test]
fn notices_are_for_a_load_and_few() {
    for (count, reason) in [(16, None), (17, Some("more than 16 notices"))] {
        let home = Directory::new();
        let notices = "notice 0 \"a\\u001bb\"\n".repeat(count);
        let program = stand_in_of(&home, |ready| format!("{notices}{ready}"), "read -r end");
        let model = Tiny::mute().write(home.join("tiny.gguf"));
        let program = program.to_str().expect("test paths are UTF-8");
        let bridge = Bridge::start(&home, &["--model-program", program]);
        let mut client = bridge.connect();
        client.ask(&format!("LOAD {}", model.display()));
        match reason {
            None => client.expect(crate::harness::loaded()),
            Some(reason) => assert!(client.expect_error("load_failed").ends_with(reason)),
        }
        wait_until("they are logged", || {
            bridge.errors().matches(r"a\u{1b}b").count() == 16
        });
        assert!(!bridge.errors().contains('\u{1b}'));
    }
}
