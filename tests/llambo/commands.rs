//! llambo's commands against a live bridge; and what its other chapters are written with.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use crate::harness::{Bridge, Directory, Ended, LIMIT, Tiny, failure, ok, process};

/// A command that runs llambo with the bridge of `home`.
pub(crate) fn llambo(home: &Directory, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llambo"));
    command
        .env("LLAMA_CPP_BRIDGE_SOCKET", home.socket())
        .env_remove("LLAMBO_AUTH_FILE")
        .current_dir(home.path())
        .args(arguments);
    command
}

/// Runs a command with this standard input until it ends by itself.
pub(crate) fn feed(command: &mut Command, input: impl AsRef<[u8]>) -> Ended {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command can be started");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let input = input.as_ref().to_vec();
    // A command that ends before it has read everything breaks the pipe, as it may.
    thread::spawn(move || stdin.write_all(&input));
    let pid = child.id();
    let (send, receive) = mpsc::channel();
    thread::spawn(move || send.send(child.wait_with_output()));
    let Ok(output) = receive.recv_timeout(LIMIT) else {
        process::signal(pid, "KILL");
        panic!("{command:?} did not end by itself");
    };
    let output = output.expect("a child can be waited for");
    Ended {
        code: output.status.code(),
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs llambo with the bridge of `home` and with nothing on standard input.
pub(crate) fn ask(home: &Directory, arguments: &[&str]) -> Ended {
    feed(&mut llambo(home, arguments), "")
}

/// Expects an end that printed just this, and on standard error nothing.
pub(crate) fn expect_text(ended: &Ended, text: &str) {
    assert_eq!(
        (ended.code, ended.output.as_str()),
        (Some(0), text),
        "{ended:?}"
    );
    assert_eq!(ended.errors, "", "{ended:?}");
}

/// Expects an end with this exit status, nothing on standard output, and this on standard error.
pub(crate) fn expect_failure(ended: &Ended, code: i32, message: &str) {
    assert_eq!(
        (ended.code, ended.output.as_str()),
        (Some(code), ""),
        "{ended:?}"
    );
    assert!(
        ended.errors.contains(message),
        "no '{message}' in {ended:?}"
    );
}

/// A program at work, whose output is read while it comes.
pub(crate) struct Running {
    /// The program.
    pub(crate) child: Child,
    output: Receiver<Vec<u8>>,
    received: String,
    /// Bytes of `received` that [`Running::next`] has passed.
    passed: usize,
}

impl Running {
    /// Starts it; its standard input is a pipe, its standard error ours.
    pub(crate) fn start(command: &mut Command) -> Running {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command can be started");
        let mut stdout = child.stdout.take().expect("stdout is a pipe");
        let (send, output) = mpsc::channel();
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut chunk) {
                if send.send(chunk[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Running {
            child,
            output,
            received: String::new(),
            passed: 0,
        }
    }

    /// Waits until this was printed after what was waited for so before, and gives what came up
    /// to its end.
    pub(crate) fn next(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.received[self.passed..].find(text) {
                let start = self.passed;
                self.passed += at + text.len();
                return self.received[start..self.passed].to_string();
            }
            match self.output.recv_timeout(LIMIT) {
                Ok(bytes) => self.received.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("no '{text}' ({error}) after: {}", self.received),
            }
        }
    }

    /// Waits until this was printed, and gives back all that was printed so far.
    pub(crate) fn wait_for(&mut self, text: &str) -> &str {
        while !self.received.contains(text) {
            match self.output.recv_timeout(LIMIT) {
                Ok(bytes) => self.received.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("no '{text}' ({error}) after: {}", self.received),
            }
        }
        &self.received
    }

    /// All that was printed, once the program has ended.
    pub(crate) fn rest(&mut self) -> &str {
        while let Ok(bytes) = self.output.recv_timeout(LIMIT) {
            self.received.push_str(&String::from_utf8_lossy(&bytes));
        }
        &self.received
    }

    /// Writes to its standard input.
    pub(crate) fn write(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("stdin is a pipe");
        stdin
            .write_all(text.as_bytes())
            .expect("the program reads its input");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory with a bridge on which this model is loaded.
pub(crate) fn bridge_with(model: &Tiny) -> (Directory, Bridge) {
    let home = Directory::new();
    let model = model.write(home.join("model.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    (home, bridge)
}

#[test]
fn llambo_is_small_and_holds_nothing_of_llama_cpp() {
    let bytes = std::fs::read(env!("CARGO_BIN_EXE_llambo")).expect("the program can be read");
    // A quarter of it is the editing of lines.
    assert!(bytes.len() < 1_100_000, "{} bytes", bytes.len());
    let holds = |name: &[u8]| bytes.windows(name.len()).any(|window| window == name);
    assert!(
        !holds(b"ggml_") && !holds(b"llama_decode"),
        "llama.cpp is in it"
    );
}

#[test]
fn ping_prints_pong() {
    let home = Directory::new();
    let _bridge = Bridge::start(&home, &[]);
    expect_text(&ask(&home, &["ping"]), "pong\n");
}

#[test]
fn load_gets_an_absolute_path_and_leaves_links_as_they_are_named() {
    let home = Directory::new();
    let _bridge = Bridge::start(&home, &[]);
    Tiny::alphabet().write(home.join("model.gguf"));
    std::os::unix::fs::symlink("model.gguf", home.join("link.gguf")).expect("a link can be made");
    expect_text(&ask(&home, &["status"]), "No model loaded\n");
    for name in ["model.gguf", "./link.gguf"] {
        expect_text(&ask(&home, &["load", name]), "Model loaded successfully\n");
        let path = home.join(name.trim_start_matches("./"));
        expect_text(
            &ask(&home, &["status"]),
            &format!("Model loaded: {}\n", path.display()),
        );
    }
    expect_text(&ask(&home, &["free"]), "Resources freed\n");
    expect_text(&ask(&home, &["status"]), "No model loaded\n");
}

#[test]
fn a_load_that_fails_is_told_on_standard_error() {
    let home = Directory::new();
    let _bridge = Bridge::start(&home, &[]);
    let ended = ask(&home, &["load", "nothing.gguf"]);
    let path = home.join("nothing.gguf");
    let message = format!(
        "llambo: Failed to load model: {}: no such file\n",
        path.display()
    );
    expect_failure(&ended, 1, &message);
}

#[test]
fn save_and_restore_tell_how_much_it_was() {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let states = home.path().to_str().expect("test paths are UTF-8");
    let _bridge = Bridge::with_model(&home, &model, &["--state-dir", states]);
    expect_text(&ask(&home, &["infer", "-n", "3", "abc"]), "def\n");
    let saved = ask(&home, &["save", "abc"]);
    let bytes = saved.output.strip_prefix("State saved: 6 tokens, ");
    let bytes = bytes.and_then(|rest| rest.strip_suffix(" bytes\n"));
    let bytes = bytes.unwrap_or_else(|| panic!("{saved:?}"));
    let restored = format!("State restored: 6 tokens, {bytes} bytes\n");
    expect_text(&ask(&home, &["restore", "abc"]), &restored);
    let missing = ask(&home, &["restore", "xyz"]);
    expect_failure(&missing, 1, "There is no saved state 'xyz'");
}

#[test]
fn quit_stops_the_bridge() {
    let home = Directory::new();
    let mut bridge = Bridge::start(&home, &[]);
    expect_text(&ask(&home, &["quit"]), "Goodbye\n");
    bridge.expect_stop(&[]);
}

#[test]
fn infer_prints_the_text_and_a_newline() {
    let (home, _bridge) = bridge_with(&Tiny::alphabet());
    expect_text(
        &ask(&home, &["infer", "see ab"]),
        "cdefghijklmnopqrstuvwxyz\n",
    );
}

#[test]
fn a_newline_that_ends_the_answer_is_not_doubled() {
    let (home, _bridge) = bridge_with(&Tiny::mute().chain("ab\n"));
    expect_text(&ask(&home, &["infer", "a"]), "b\n");
}

#[test]
fn text_appears_as_it_is_generated() {
    let (home, _bridge) = bridge_with(&Tiny::endless());
    let mut running =
        Running::start(llambo(&home, &["infer", "-n", "-1", "a"]).stderr(Stdio::null()));
    drop(running.child.stdin.take());
    running.wait_for("bcdefghijklmnopqrstuvwxyzab");
    let ended = running.child.try_wait().expect("a child can be asked for");
    assert!(ended.is_none(), "llambo ended before the endless text did");
}

#[test]
fn info_prints_a_line_for_each_property() {
    let (home, _bridge) = bridge_with(&Tiny::alphabet());
    let ended = ask(&home, &["info"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let path = format!("model: {}", home.join("model.gguf").display());
    assert!(ended.output.lines().any(|line| line == path), "{ended:?}");
    for key in ["version", "architecture", "context_size", "vocabulary_size"] {
        let start = format!("{key}: ");
        assert!(
            ended.output.lines().any(|line| line.starts_with(&start)),
            "no {key}: {ended:?}"
        );
    }
}

#[test]
fn tokens_go_round_through_tokenize_and_detokenize() {
    let (home, _bridge) = bridge_with(&Tiny::alphabet());
    let text = "two lines:\nüber, \"quoted\"";
    let tokens = ask(&home, &["tokenize", text]);
    assert_eq!(tokens.code, Some(0), "{tokens:?}");
    let words: Vec<&str> = tokens.output.split_whitespace().collect();
    assert!(
        words.iter().all(|word| word.parse::<u32>().is_ok()),
        "{tokens:?}"
    );
    let back = ask(&home, &[&["detokenize"], words.as_slice()].concat());
    expect_text(&back, &format!("{text}\n"));
    let piped = feed(&mut llambo(&home, &["detokenize"]), &tokens.output);
    expect_text(&piped, &format!("{text}\n"));
}

#[test]
fn embed_prints_the_numbers_of_the_reply_on_one_line() {
    let (home, _bridge) = bridge_with(&Tiny::alphabet());
    let ended = ask(&home, &["embed", "some text"]);
    assert_eq!(
        (ended.code, ended.errors.as_str()),
        (Some(0), ""),
        "{ended:?}"
    );
    assert_eq!(ended.output.lines().count(), 1);
    let numbers: Result<Vec<f64>, _> = ended.output.split_whitespace().map(str::parse).collect();
    let length: f64 = numbers
        .expect("all are numbers")
        .iter()
        .map(|number| number * number)
        .sum();
    assert!((length - 1.0).abs() < 1e-3, "the length is {length}, not 1");
}

#[test]
fn json_prints_the_replies_as_they_are() {
    let (home, _bridge) = bridge_with(&Tiny::alphabet());
    expect_text(&ask(&home, &["--json", "ping"]), &(ok("pong") + "\n"));
    let ended = ask(&home, &["infer", "--json", "-n", "3", "a"]);
    let begin =
        r#"{"status":"ok","message":"Inference completed","data":"bcd","finish_reason":"length","#;
    assert!(ended.output.starts_with(begin), "{ended:?}");
    assert_eq!(
        (ended.code, ended.output.lines().count()),
        (Some(0), 1),
        "{ended:?}"
    );
    let ended = ask(&home, &["load", "--json", "/"]);
    let reply = failure(
        "load_failed",
        "Failed to load model: /: is a directory, not a GGUF file",
    );
    assert_eq!(
        (ended.code, ended.output, ended.errors),
        (Some(1), reply + "\n", String::new())
    );
}

#[test]
fn raw_passes_requests_and_replies_as_they_are() {
    let (home, _bridge) = bridge_with(&Tiny::mute().chain("\nxy"));
    let ended = feed(
        &mut llambo(&home, &["raw"]),
        "PING\r\n\n12:INFER a\nb\nc\n,ping",
    );
    let text = r#"{"status":"ok","message":"Inference completed","data":"xy"}"#;
    expect_text(&ended, &format!("{}\n{text}\n{}\n", ok("pong"), ok("pong")));
    let ended = feed(&mut llambo(&home, &["raw"]), "NONSENSE\nPING\n");
    let unknown = failure("unknown_command", "Unknown command: NONSENSE");
    assert_eq!(
        (ended.code, ended.output),
        (Some(1), format!("{unknown}\n{}\n", ok("pong")))
    );
}

#[test]
fn raw_answers_each_line_as_it_is_typed() {
    let home = Directory::new();
    let _bridge = Bridge::start(&home, &[]);
    let mut running = Running::start(&mut llambo(&home, &["raw"]));
    running.write("PING\n");
    running.wait_for("pong");
    running.write("STATUS\n");
    running.wait_for("No model loaded");
}

#[test]
fn several_bridges_are_asked_in_turn_by_name() {
    let (one, two) = (Directory::new(), Directory::new());
    let (_one, _two) = (Bridge::start(&one, &[]), Bridge::start(&two, &[]));
    let sockets = [one.socket(), two.socket()].map(|path| path.display().to_string());
    let ended = ask(&one, &["-s", &sockets[0], "-s", &sockets[1], "ping"]);
    expect_text(
        &ended,
        &format!("{}: pong\n{}: pong\n", sockets[0], sockets[1]),
    );
    let gone = two.join("gone").display().to_string();
    let ended = ask(&one, &["-s", &gone, "-s", &sockets[1], "ping"]);
    assert_eq!(
        (ended.code, ended.output),
        (Some(3), format!("{}: pong\n", sockets[1]))
    );
    let both = ["-s", &sockets[0], "-s", &sockets[1]];
    let ended = ask(&one, &[&both[..], &["--json", "ping"]].concat());
    let object = |socket: &str| {
        format!("{{\"socket\":\"{socket}\",\"status\":\"ok\",\"message\":\"pong\"}}\n")
    };
    expect_text(&ended, &(object(&sockets[0]) + &object(&sockets[1])));
    let ended = ask(&one, &[&both[..], &["raw"]].concat());
    expect_failure(&ended, 2, "raw asks one bridge, but 2 sockets were given");
}

#[test]
fn of_several_bridges_the_first_that_is_free_and_has_a_model_answers() {
    let (busy, bridge) = bridge_with(&Tiny::alphabet());
    let (free, _free) = bridge_with(&Tiny::mute().chain("abc"));
    let empty = Directory::new();
    let _empty = Bridge::start(&empty, &[]);
    let mut holder = bridge.connect();
    holder.exchange("PING", &ok("pong"));
    let gone = busy.join("gone");
    let sockets = [busy.socket(), empty.socket(), gone, free.socket()];
    let sockets: Vec<String> = sockets
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let over = |sockets: &[String], arguments: &[&str]| {
        let named = sockets.iter().flat_map(|socket| ["-s", socket]);
        let arguments: Vec<&str> = named.chain(arguments.iter().copied()).collect();
        ask(&busy, &arguments)
    };
    expect_text(&over(&sockets, &["infer", "a"]), "bc\n");
    let embedding = over(&sockets, &["embed", "a"]);
    assert_eq!(embedding.output.split(' ').count(), 288, "{embedding:?}");
    // Nobody else may answer: one waits for the busy bridge, or says that there is none.
    let ended = over(&sockets[..1], &["--timeout", "0.3", "ping"]);
    expect_failure(&ended, 6, "is busy with another client");
    expect_failure(&over(&sockets[1..3], &["infer", "a"]), 1, "No model loaded");
    let ended = over(&[&sockets[2..3], &sockets[2..3]].concat(), &["infer", "a"]);
    expect_failure(&ended, 3, "gone: no such file");
    let twice = [&sockets[..1], &sockets[..1]].concat();
    let ended = over(&twice, &["--timeout", "0.3", "infer", "a"]);
    expect_failure(&ended, 6, "is busy with another client");
    holder.vanish();
    expect_text(&over(&sockets[..3], &["infer", "x"]), "yz\n");
}

#[test]
fn help_is_a_command_too() {
    let home = Directory::new();
    assert_eq!(ask(&home, &["help"]).output, ask(&home, &["--help"]).output);
    let ended = ask(&home, &["help", "map"]);
    expect_text(&ended, &ask(&home, &["map", "--help"]).output);
    expect_failure(&ask(&home, &["help", "fly"]), 2, "unknown command 'fly'");
}

#[test]
fn an_option_names_the_socket_before_the_environment_does() {
    let (home, elsewhere) = (Directory::new(), Directory::new());
    let _bridge = Bridge::start(&home, &[]);
    let socket = home.socket().display().to_string();
    expect_text(&ask(&elsewhere, &["--socket", &socket, "ping"]), "pong\n");
    expect_failure(&ask(&elsewhere, &["ping"]), 3, "cannot connect to");
}

#[test]
fn without_option_and_environment_the_documented_socket_is_meant() {
    let home = Directory::new();
    let ended = feed(
        llambo(&home, &["--timeout", "1", "ping"]).env_remove("LLAMA_CPP_BRIDGE_SOCKET"),
        "",
    );
    // Somebody's bridge may run there, idle or busy.
    let named = ended.errors.contains("/tmp/llama-cpp-bridge.sock");
    assert!(named || ended.output == "pong\n", "{ended:?}");
}

#[test]
fn a_bridge_is_reached_over_tcp() {
    let (home, _bridge) = bridge_with(&Tiny::alphabet());
    let address = forward(home.socket().as_path());
    expect_text(
        &ask(&home, &["-s", &address, "infer", "a"]),
        "bcdefghijklmnopqrstuvwxyz\n",
    );
}

/// Forwards one TCP connection to a Unix socket, as socat or ssh would, and gives its address.
fn forward(socket: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("the port is known");
    let socket = socket.to_path_buf();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("llambo connects");
        let mut bridge = UnixStream::connect(socket).expect("the bridge listens");
        let mut requests = client.try_clone().expect("a socket can be shared");
        let mut onward = bridge.try_clone().expect("a socket can be shared");
        thread::spawn(move || std::io::copy(&mut requests, &mut onward));
        std::io::copy(&mut bridge, &mut client)
    });
    format!("tcp:{address}")
}
