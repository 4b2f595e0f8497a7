//! How llambo ends when something is wrong: with the bridge, its socket, its model, or the reader.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use crate::harness::{Bridge, Directory, LIMIT, Tiny, process, skip};
use crate::llambo::commands::{
    Running, ask, bridge_with, expect_failure, expect_text, feed, llambo,
};

/// Listens where a bridge would, gives each connection to `serve`, and passes on the lines that
/// `serve` reports.
pub(crate) fn respond(
    home: &Directory,
    mut serve: impl FnMut(UnixStream, &mpsc::Sender<String>) + Send + 'static,
) -> Receiver<String> {
    let listener = UnixListener::bind(home.socket()).expect("the socket can be made");
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            serve(stream, &send);
        }
    });
    receive
}

/// The next line of a connection.
pub(crate) fn line_of(stream: &UnixStream) -> String {
    let mut line = String::new();
    // A reader of one byte at a time, so that nothing after the line is lost.
    let mut reader = BufReader::with_capacity(1, stream);
    reader.read_line(&mut line).expect("a request is text");
    line
}

#[test]
fn no_bridge_is_exit_3_with_the_way_to_start_one() {
    let home = Directory::new();
    let socket = home.socket().display().to_string();
    let ended = ask(&home, &["ping"]);
    expect_failure(
        &ended,
        3,
        &format!("cannot connect to {socket}: no such file\n"),
    );
    let start = format!(
        "llambo: Start a bridge with: llama-cpp-bridge --socket {socket} --model FILE.gguf\n"
    );
    assert!(ended.errors.contains(&start), "{ended:?}");
    drop(UnixListener::bind(home.socket()).expect("the socket can be made"));
    let ended = ask(&home, &["ping"]);
    expect_failure(
        &ended,
        3,
        &format!("cannot connect to {socket}: no bridge listens there\n"),
    );
    assert!(ended.errors.contains(&start), "{ended:?}");
}

#[test]
fn what_is_no_socket_or_no_bridge_is_exit_3() {
    let home = Directory::new();
    fs::write(home.join("file"), "").expect("a file can be written");
    expect_failure(
        &ask(&home, &["-s", "file", "ping"]),
        3,
        "it is not a socket",
    );
    expect_failure(
        &ask(&home, &["-s", "tcp:127.0.0.1:1", "ping"]),
        3,
        "llambo: A bridge has no port of its own; on its host, forward one with: \
         socat TCP-LISTEN:PORT,bind=localhost,fork UNIX-CONNECT:SOCKET\n",
    );
    let _requests = respond(&home, |mut stream, _| {
        line_of(&stream);
        let _ = stream.write_all(b"220 mail.example.org\r\n");
    });
    expect_failure(
        &ask(&home, &["ping"]),
        3,
        "does not answer like a bridge: '220 mail",
    );
}

#[test]
fn the_socket_of_a_stranger_is_refused_unless_named() {
    let (home, _bridge) = bridge_with(&Tiny::alphabet());
    let own = fs::metadata(home.path())
        .expect("the directory is there")
        .uid();
    if own != 0 {
        return skip("only root can give a socket to a stranger");
    }
    chown(home.socket(), Some(54_321), None).expect("root can give files away");
    let ended = ask(&home, &["ping"]);
    expect_failure(&ended, 3, "is not trusted: it belongs to uid 54321");
    expect_failure(
        &ask(&home, &["--trust-uid", "54322", "ping"]),
        3,
        "is not trusted",
    );
    expect_text(
        &ask(
            &home,
            &["--trust-uid", "54322", "--trust-uid", "54321", "ping"],
        ),
        "pong\n",
    );
    // A stranger's link is no better, even if it leads to a socket of one's own.
    chown(home.socket(), Some(0), None).expect("root can take files");
    expect_text(&ask(&home, &["ping"]), "pong\n");
    std::os::unix::fs::symlink(home.socket(), home.join("link")).expect("a link can be made");
    expect_text(&ask(&home, &["-s", "link", "ping"]), "pong\n");
    std::os::unix::fs::lchown(home.join("link"), Some(54_321), None).expect("root can");
    expect_failure(&ask(&home, &["-s", "link", "ping"]), 3, "is not trusted");
}

#[test]
fn an_error_of_the_bridge_is_exit_1_with_its_message() {
    let home = Directory::new();
    let _bridge = Bridge::start(&home, &[]);
    let hint = "llambo: No model loaded\nllambo: Load one with: llambo load PATH\n";
    expect_failure(&ask(&home, &["infer", "a"]), 1, hint);
}

#[test]
fn a_prompt_too_long_for_the_context_is_an_error_with_both_counts() {
    let (home, _bridge) = bridge_with(&Tiny::alphabet());
    let ended = feed(&mut llambo(&home, &["infer"]), "a".repeat(600));
    expect_failure(
        &ended,
        1,
        "Prompt of 601 tokens exceeds the context of 512 tokens",
    );
}

#[test]
fn a_bridge_that_lacks_a_verb_is_said_to() {
    let home = Directory::new();
    let requests = respond(&home, |mut stream, requests| {
        let _ = requests.send(line_of(&stream));
        let _ = stream.write_all(
            b"{\"status\":\"error\",\"message\":\"Unknown command: X\",\"code\":\"unknown_command\"}\n",
        );
    });
    let cases: [(&[&str], &str); 2] = [
        (&["tokenize", "hi"], "TOKENIZE hi\n"),
        (
            &["infer", "hi"],
            "GENERATE {\"prompt\":\"hi\",\"stream\":true}\n",
        ),
    ];
    for (arguments, request) in cases {
        let ended = ask(&home, arguments);
        expect_failure(
            &ended,
            1,
            "Unknown command: X (this bridge does not support it)\n",
        );
        assert_eq!(requests.recv_timeout(LIMIT).as_deref(), Ok(request));
    }
}

#[test]
fn a_busy_bridge_is_waited_for_only_as_long_as_the_timeout() {
    let (home, bridge) = bridge_with(&Tiny::endless());
    let mut running =
        Running::start(llambo(&home, &["infer", "-n", "-1", "a"]).stderr(Stdio::null()));
    drop(running.child.stdin.take());
    running.wait_for("bcd");
    for command in ["ping", "status", "info", "free"] {
        let ended = ask(&home, &["--timeout", "0.3", command]);
        let message =
            "is busy with another client: it accepted the connection but sent nothing for 0.3 s";
        expect_failure(&ended, 6, message);
    }
    // What needs work may be at work.
    let ended = ask(&home, &["--timeout", "0.3", "tokenize", "a"]);
    expect_failure(&ended, 4, "sent nothing for 0.3 s");
    drop(running);
    expect_text(&ask(&home, &["ping"]), "pong\n");
    drop(bridge);
}

#[test]
fn a_full_listen_queue_does_not_outlast_the_timeout() {
    let home = Directory::new();
    // One that never accepts, with a short queue; Rust's own listeners have a long one.
    let script = "IO::Socket::UNIX->new(Local => $ARGV[0], Listen => 1) or die; \
                  $| = 1; print qq(listening\\n); <STDIN>";
    let mut command = Command::new("perl");
    command.args(["-MIO::Socket::UNIX", "-e"]);
    command.arg(format!("my $listener = {script}"));
    let mut listener = Running::start(command.arg(home.socket()));
    listener.wait_for("listening");
    let (send, receive) = mpsc::channel();
    let socket = home.socket();
    // Fills the queue, then blocks, and is left so.
    thread::spawn(move || {
        let mut held = Vec::new();
        while send.send(()).is_ok() {
            held.push(UnixStream::connect(&socket));
        }
    });
    while receive.recv_timeout(Duration::from_millis(500)).is_ok() {}
    expect_failure(
        &ask(&home, &["--timeout", "0.3", "ping"]),
        4,
        "sent nothing for 0.3 s",
    );
}

#[test]
fn the_timeout_counts_silence_and_not_the_whole_time() {
    let home = Directory::new();
    let _requests = respond(&home, |mut stream, _| {
        line_of(&stream);
        for piece in "abcdefghijklmnop".chars() {
            thread::sleep(Duration::from_millis(100));
            let reply =
                format!("{{\"status\":\"partial\",\"message\":\"token\",\"data\":\"{piece}\"}}\n");
            let _ = stream.write_all(reply.as_bytes());
        }
        // Then silence, with the connection open.
        let _ = line_of(&stream);
    });
    let ended = ask(&home, &["--timeout", "1", "infer", "x"]);
    assert_eq!(
        (ended.code, ended.output.as_str()),
        (Some(4), "abcdefghijklmnop\n"),
        "{ended:?}"
    );
    assert!(ended.errors.contains("sent nothing for 1 s"), "{ended:?}");
}

#[test]
fn raw_counts_silence_only_while_a_reply_is_due() {
    let home = Directory::new();
    let _bridge = Bridge::start(&home, &[]);
    let mut command = Command::new("sh");
    let script = "(printf 'PING\\n'; sleep 1; printf 'PING\\n') | \"$0\" --timeout 0.5 raw";
    command.args(["-c", script, env!("CARGO_BIN_EXE_llambo")]);
    command.env("LLAMA_CPP_BRIDGE_SOCKET", home.socket());
    let ended = feed(&mut command, "");
    assert_eq!(
        (ended.code, ended.output.lines().count()),
        (Some(0), 2),
        "{ended:?}"
    );
    let silent = Directory::new();
    let mut held = Vec::new();
    let _requests = respond(&silent, move |stream, _| held.push(stream));
    let ended = feed(&mut llambo(&silent, &["--timeout", "0.3", "raw"]), "PING\n");
    expect_failure(&ended, 4, "sent nothing for 0.3 s");
    // A request that the bridge does not even read to its end.
    let long = format!("INFER {}\n", "a".repeat(1024 * 1024));
    let ended = feed(&mut llambo(&silent, &["--timeout", "0.3", "raw"]), long);
    expect_failure(&ended, 4, "sent nothing for 0.3 s");
}

#[test]
fn raw_tells_how_many_requests_were_left_without_a_reply() {
    let home = Directory::new();
    // Answers one request and goes away.
    let _requests = respond(&home, |mut stream, _| {
        let mut all = String::new();
        let _ = stream.read_to_string(&mut all);
        let _ = stream.write_all(b"{\"status\":\"ok\",\"message\":\"pong\"}\n");
    });
    for (input, count) in [
        ("PING\nPING\n", 2),
        ("PING\n\r\n\n4:PING,PING", 3),
        ("7:INFER \n,7:INFER \n,\n12:INFER a\nb\nc\n,PING\n", 4),
    ] {
        let ended = feed(&mut llambo(&home, &["raw"]), input);
        let message = format!("it closed the connection after 1 of {count} replies");
        assert_eq!(
            (ended.code, ended.output.lines().count()),
            (Some(4), 1),
            "{ended:?}"
        );
        assert!(ended.errors.contains(&message), "{ended:?}");
    }
    expect_text(
        &feed(&mut llambo(&home, &["raw"]), "4:PING,\n"),
        "{\"status\":\"ok\",\"message\":\"pong\"}\n",
    );
}

#[test]
fn a_model_that_dies_during_the_answer_is_exit_4() {
    let (home, bridge) = bridge_with(&Tiny::endless());
    let mut running = Running::start(&mut llambo(&home, &["infer", "-n", "-1", "a"]));
    drop(running.child.stdin.take());
    running.wait_for("bcd");
    process::signal(bridge.model_process(), "KILL");
    let status = running.child.wait().expect("llambo ends");
    assert_eq!(status.code(), Some(4));
}

#[test]
fn a_bridge_that_dies_during_the_answer_is_exit_4() {
    let (home, bridge) = bridge_with(&Tiny::endless());
    let mut running = Running::start(&mut llambo(&home, &["infer", "-n", "-1", "a"]));
    drop(running.child.stdin.take());
    running.wait_for("bcd");
    process::signal(bridge.pid(), "KILL");
    let status = running.child.wait().expect("llambo ends");
    assert_eq!(status.code(), Some(4));
}

#[test]
fn a_closed_pipe_ends_llambo_quietly_and_stops_the_bridges_work() {
    let (home, _bridge) = bridge_with(&Tiny::endless());
    let script = "{ \"$0\" infer -n -1 a; echo \"status $?\" >&2; } | head -c 5";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_llambo")]);
    command.env("LLAMA_CPP_BRIDGE_SOCKET", home.socket());
    let ended = feed(&mut command, "");
    assert_eq!(
        (ended.output.as_str(), ended.errors.as_str()),
        ("bcdef", "status 0\n")
    );
    expect_text(&ask(&home, &["ping"]), "pong\n");
}

#[test]
fn a_standard_output_that_is_closed_is_an_error() {
    let (home, _bridge) = bridge_with(&Tiny::alphabet());
    let run = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_llambo")]);
        feed(command.env("LLAMA_CPP_BRIDGE_SOCKET", home.socket()), "")
    };
    for arguments in ["infer x", "ping", "--help", "map"] {
        let ended = run(&format!("echo a | \"$0\" {arguments} >&-"));
        expect_failure(
            &ended,
            1,
            "llambo: cannot write to standard output: it is closed\n",
        );
    }
    // What is thrown away on purpose may be opened as the standard library would.
    for place in [">/dev/null", "1<>/dev/null"] {
        expect_text(&run(&format!("\"$0\" ping {place}")), "");
    }
}

#[test]
fn an_interrupt_ends_llambo_and_the_bridges_work() {
    let (home, _bridge) = bridge_with(&Tiny::endless());
    let mut running = Running::start(&mut llambo(&home, &["infer", "-n", "-1", "a"]));
    drop(running.child.stdin.take());
    running.wait_for("bcd");
    process::signal(running.child.id(), "INT");
    let status = running.child.wait().expect("llambo ends");
    // Ended by the signal itself, so that a shell stops its loops too.
    assert_eq!(status.signal(), Some(2));
    expect_text(&ask(&home, &["ping"]), "pong\n");
}

#[test]
fn an_interrupt_at_a_terminal_is_130_to_the_shell() {
    let (home, _bridge) = bridge_with(&Tiny::endless());
    let script = format!(
        "trap : INT; '{}' infer -n -1 a; echo \"status $?\"",
        env!("CARGO_BIN_EXE_llambo")
    );
    let mut command = Command::new("script");
    command
        .args(["-qec", &script, "/dev/null"])
        .env("LLAMA_CPP_BRIDGE_SOCKET", home.socket());
    // With a prompt as operand, llambo leaves the terminal's input alone.
    let mut running = Running::start(&mut command);
    running.wait_for("bcdefg");
    running.write("\u{3}");
    running.wait_for("status 130");
    expect_text(&ask(&home, &["ping"]), "pong\n");
}
