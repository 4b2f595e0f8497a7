//! A model process that does not end although it is killed, as one whose disk or driver does not
//! answer: each limit holds, the memory that it still has is not reported as free, and the bridge ends
//! without it. One that is traced is such a process until its tracer ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{
    Bridge, Directory, Tiny, completed, failure, loaded, ok, process, script, skip, stand_in,
    stand_in_of, wait_until,
};

/// How long a process that was killed is waited for.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Attaches to a process, and stays so until its standard input is closed.
const TRACER: &str = "
import ctypes, sys
libc = ctypes.CDLL(None)
libc.ptrace.argtypes = [ctypes.c_long] * 4
libc.ptrace.restype = ctypes.c_long
PTRACE_SEIZE = 0x4206
print(libc.ptrace(PTRACE_SEIZE, int(sys.argv[1]), 0, 0), flush=True)
sys.stdin.read()
";

/// A tracer. The process that it traces can be reaped once this is dropped.
struct Tracer(Child);

impl Tracer {
    /// Traces a process; `None`, said aloud, where that is forbidden.
    fn of(pid: u32) -> Option<Tracer> {
        let mut child = Command::new("python3")
            .args(["-c", TRACER, &pid.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 can be started");
        let mut line = String::new();
        let output = child.stdout.take().expect("it is a pipe");
        let read = BufReader::new(output).read_line(&mut line);
        read.expect("it tells");
        let tracer = Tracer(child);
        if line.trim() != "0" {
            skip("no process may be traced here");
            return None;
        }
        Some(tracer)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A program that answers no request until the file `works` is there.
fn program(home: &Directory) -> PathBuf {
    let works = home.join("works");
    let done = r#"{"text":"a","finish_reason":"stop","prompt_tokens":1,"cached_tokens":0,"completion_tokens":1,"prompt_ms":0,"completion_ms":0,"seed":7}"#;
    let text = format!(
        "while read -r request; do rest=${{request#* }}\n\
         test -e {} && printf 'done %s %s\\n' ${{rest%% *}} '{done}' >&0; done",
        works.display()
    );
    stand_in(home, &text)
}

fn bridge_with(home: &Directory, program: &Path, options: &[&str]) -> Bridge {
    let model = Tiny::mute().write(home.join("tiny.gguf"));
    let program = program.to_str().expect("test paths are UTF-8");
    let always = ["--model-program", program, "--seed", "7"];
    Bridge::with_model(home, &model, &[&always, options].concat())
}

fn load(home: &Directory) -> String {
    format!("LOAD {}", home.join("tiny.gguf").display())
}

fn unresponsive() -> String {
    let message = "The model process was unresponsive for 1 s";
    failure("timeout", message)
}

fn left(pid: u32) -> String {
    let left = format!("model process {pid} was killed and has not ended");
    let message = format!("No model loaded, but its memory is not back: {left}");
    failure("timeout", &message)
}

#[test]
fn free_of_a_process_that_does_not_end_is_answered_and_says_so() {
    let home = Directory::new();
    let bridge = bridge_with(&home, &program(&home), &["--stall-timeout", "1"]);
    let child = bridge.model_process();
    let Some(tracer) = Tracer::of(child) else {
        return;
    };
    let mut client = bridge.connect();
    let start = Instant::now();
    client.exchange("INFER w", &unresponsive());
    let took = start.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    client.exchange("PING", &ok("pong"));
    client.exchange("FREE", &left(child));
    let took = start.elapsed();
    assert!(
        took >= END_LIMIT && took < END_LIMIT + Duration::from_secs(5),
        "{took:?}"
    );
    client.exchange("STATUS", &ok("No model loaded"));
    client.exchange("FREE", &left(child));
    let there = format!(
        "model process {child} was killed 10 s ago and has not ended; its memory is not back"
    );
    wait_until("it is logged", || bridge.errors().contains(&there));
    drop(tracer);
    wait_until("it is gone", || {
        bridge
            .errors()
            .contains(&format!("model process {child} has ended, "))
    });
    assert_eq!(bridge.errors().matches(&there).count(), 1);
    client.exchange("FREE", &ok("Resources freed"));
    assert_eq!(process::zombies(bridge.pid()), [0; 0]);
}

#[test]
fn a_model_is_loaded_beside_one_process_that_does_not_end_but_not_beside_two() {
    let home = Directory::new();
    let bridge = bridge_with(&home, &program(&home), &["--stall-timeout", "1"]);
    let first = bridge.model_process();
    let Some(first_tracer) = Tracer::of(first) else {
        return;
    };
    let mut client = bridge.connect();
    client.exchange("INFER w", &unresponsive());
    fs::write(home.join("works"), "").expect("it can be written");
    client.exchange("INFER w", &completed("a"));
    fs::remove_file(home.join("works")).expect("it is there");
    let second = bridge.model_process();
    let second_tracer = Tracer::of(second).expect("as the first");
    client.exchange("INFER w", &unresponsive());
    let reason = format!(
        "Failed to load model: {}: model processes {first}, {second} were killed and have not ended",
        home.join("tiny.gguf").display()
    );
    let refused = failure("timeout", &reason);
    // The request that needs the model as well as a LOAD; the model is still known.
    client.exchange("INFER w", &refused);
    client.exchange(&load(&home), &refused);
    let told = format!("Model loaded: {}", home.join("tiny.gguf").display());
    client.exchange("STATUS", &ok(&told));
    drop(first_tracer);
    wait_until("the first is gone", || {
        bridge
            .errors()
            .contains(&format!("model process {first} has ended, "))
    });
    fs::write(home.join("works"), "").expect("it can be written");
    client.exchange(&load(&home), loaded());
    client.exchange("INFER w", &completed("a"));
    drop(second_tracer);
    client.exchange("FREE", &ok("Resources freed"));
}

#[test]
fn a_bridge_ends_without_a_process_that_does_not() {
    for signal in ["TERM", "INT"] {
        let home = Directory::new();
        let mut bridge = bridge_with(&home, &program(&home), &[]);
        let child = bridge.model_process();
        let Some(tracer) = Tracer::of(child) else {
            return;
        };
        let mut client = bridge.connect();
        client.ask("INFER w");
        bridge.wait_until_idle();
        let start = Instant::now();
        process::signal(bridge.pid(), signal);
        bridge.expect_stop(&[child]);
        let took = start.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        let left = format!("exiting although model process {child} was killed and has not ended");
        wait_until("it is logged", || bridge.errors().contains(&left));
        drop(tracer);
    }
}

#[test]
fn a_load_by_a_process_that_does_not_end_is_answered_at_its_limit() {
    let home = Directory::new();
    Tiny::mute().write(home.join("tiny.gguf"));
    let silent = script(home.join("silent"), "read -r a; read -r b; read -r c");
    // It greets, and is not heard of again.
    let notice = |_: &str| r#"notice 0 "a""#.to_string();
    let slow = stand_in_of(&home, notice, "read -r end");
    for (program, reason) in [
        (
            silent,
            "did not identify itself as a llama-cpp-bridge-model within 2 s",
        ),
        (slow, "not loaded within 2 s"),
    ] {
        let program = program.to_str().expect("test paths are UTF-8");
        let options = ["--load-timeout", "2", "--model-program", program];
        let bridge = Bridge::start(&home, &options);
        let mut client = bridge.connect();
        let start = Instant::now();
        client.ask(&load(&home));
        let Some(tracer) = Tracer::of(bridge.model_process()) else {
            return;
        };
        let message = client.expect_error("timeout");
        assert!(message.ends_with(reason), "{message}");
        let took = start.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        client.exchange("STATUS", &ok("No model loaded"));
        drop(tracer);
    }
}

#[test]
fn a_request_that_is_given_up_by_a_process_that_does_not_end_keeps_the_next_one_not_for_ever() {
    let home = Directory::new();
    let bridge = bridge_with(&home, &program(&home), &["--request-timeout", "1"]);
    let child = bridge.model_process();
    let Some(tracer) = Tracer::of(child) else {
        return;
    };
    let mut client = bridge.connect();
    client.exchange("INFER w", &failure("timeout", "Not answered within 1 s"));
    fs::write(home.join("works"), "").expect("it can be written");
    // Two seconds to give it up, ten to end.
    wait_until("a request is answered again", || {
        client.ask("INFER w");
        client.receive() == completed("a")
    });
    drop(tracer);
}
