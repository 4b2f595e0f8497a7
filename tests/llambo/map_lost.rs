//! `llambo map` with bridges that are stopped, fall ill or take their time: no line is lost.

use std::io::{BufRead, BufReader, Write};
use std::thread;
use std::time::Duration;

use crate::harness::{Bridge, Directory, Tiny, process};
use crate::llambo::commands::{Running, bridge_with, feed, llambo};
use crate::llambo::faults::{line_of, respond};
use crate::llambo::map::{carousel_answers, map, map_over, numbers, parallel, prompts};

#[test]
fn a_bridge_that_is_killed_or_stopped_leaves_its_lines_to_the_others() {
    for signal in ["KILL", "TERM"] {
        let (one, mut bridge) = bridge_with(&Tiny::carousel());
        let (two, _two) = bridge_with(&Tiny::carousel());
        let mut running = Running::start(&mut map_over(&[&one, &two], &["-n", "300"]));
        running.write(&prompts(40));
        running.wait_for("\n");
        process::signal(bridge.pid(), signal);
        bridge.wait();
        running.write(&prompts(40));
        expect_all(running, 40);
    }
}

#[test]
fn a_bridge_that_comes_back_goes_on_with_its_lines() {
    for signal in ["KILL", "TERM"] {
        let (home, mut bridge) = bridge_with(&Tiny::carousel());
        let mut map = llambo(&home, &["map", "-n", "300", "--retry", "50"]);
        let mut running = Running::start(&mut map);
        running.write(&prompts(20));
        running.wait_for("\n");
        process::signal(bridge.pid(), signal);
        bridge.wait();
        running.write(&prompts(20));
        let _again = Bridge::with_model(&home, &home.join("model.gguf"), &[]);
        expect_all(running, 20);
    }
}

/// Expects the answers of so many prompts, written twice, each once and in order.
fn expect_all(mut running: Running, count: usize) {
    drop(running.child.stdin.take());
    let expected = carousel_answers(count, 300).repeat(2);
    assert_eq!(running.wait_for(&expected), expected);
    assert_eq!(running.child.wait().expect("llambo ends").code(), Some(0));
}

#[test]
fn a_model_that_died_and_cannot_be_loaded_again_costs_no_line() {
    let (one, bridge) = bridge_with(&Tiny::carousel());
    let (two, _two) = bridge_with(&Tiny::carousel());
    std::fs::remove_file(one.join("model.gguf")).expect("the model is there");
    let model = bridge.model_process();
    process::signal(model, "KILL");
    process::wait_for_end(model);
    let ended = feed(&mut map_over(&[&one, &two], &["-n", "3"]), prompts(50));
    assert_eq!(
        (ended.code, ended.output.as_str()),
        (Some(0), carousel_answers(50, 3).as_str()),
        "{ended:?}"
    );
    assert!(ended.errors.contains("Failed to load model"), "{ended:?}");
}

#[test]
fn a_bridge_at_work_may_leave_the_next_lines_unread_for_longer_than_the_timeout() {
    let home = Directory::new();
    let _requests = respond(&home, |mut stream, _| {
        line_of(&stream);
        let _ = stream.write_all(b"{\"status\":\"ok\",\"message\":\"x\"}\n");
        let mut reader = BufReader::new(stream.try_clone().expect("a socket can be shared"));
        while matches!(reader.skip_until(b'\n'), Ok(1..)) {
            // The work: pieces in less than the timeout, all of them in more.
            for _ in 0..12 {
                thread::sleep(Duration::from_millis(100));
                let _ = stream
                    .write_all(b"{\"status\":\"partial\",\"message\":\"x\",\"data\":\"y\"}\n");
            }
            let _ = stream.write_all(b"{\"status\":\"ok\",\"message\":\"x\",\"data\":\"y\"}\n");
        }
    });
    // More than a socket holds.
    let line = "a".repeat(1024 * 1024) + "\n";
    let ended = map(&home, &["--timeout", "0.6"], line.repeat(3));
    assert_eq!(
        (ended.code, ended.output.as_str()),
        (Some(0), "y\ny\ny\n"),
        "{ended:?}"
    );
}

/// A reply of a bridge whose model dies.
const DIED: &[u8] =
    b"{\"status\":\"error\",\"message\":\"Model process died\",\"code\":\"model_died\"}\n";

#[test]
fn a_bridge_that_always_fails_spoils_no_line_that_another_can_answer() {
    let (ill, home) = (Directory::new(), Directory::new());
    let _ill = respond(&ill, |mut stream, _| {
        line_of(&stream);
        let _ = stream.write_all(b"{\"status\":\"ok\",\"message\":\"x\"}\n");
        line_of(&stream);
        let _ = stream.write_all(DIED);
    });
    // Takes longer over a line than the other takes to be asked again.
    let _well = respond(&home, |mut stream, _| {
        line_of(&stream);
        let _ = stream.write_all(b"{\"status\":\"ok\",\"message\":\"x\"}\n");
        while line_of(&stream).ends_with('\n') {
            thread::sleep(Duration::from_millis(250));
            let _ = stream.write_all(b"{\"status\":\"ok\",\"message\":\"x\",\"data\":\"y\"}\n");
        }
    });
    let ended = feed(&mut map_over(&[&ill, &home], &[]), prompts(12));
    assert_eq!(
        (ended.code, ended.output.as_str()),
        (Some(0), "y\n".repeat(12).as_str()),
        "{ended:?}"
    );
}

#[test]
fn a_line_that_kills_the_model_slower_than_retry_leaves_the_rest_to_the_bridge() {
    let home = Directory::new();
    let _requests = respond(&home, |mut stream, _| {
        line_of(&stream);
        let _ = stream.write_all(b"{\"status\":\"ok\",\"message\":\"x\"}\n");
        loop {
            let line = line_of(&stream);
            if line.contains("deadly") {
                thread::sleep(Duration::from_millis(400));
                let _ = stream.write_all(DIED);
                return;
            }
            if stream
                .write_all(b"{\"status\":\"ok\",\"message\":\"x\",\"data\":\"y\"}\n")
                .is_err()
                || line.is_empty()
            {
                return;
            }
        }
    });
    let ended = map(&home, &["--retry", "0.3"], "one\ndeadly\ntwo\n");
    let error = "error: a bridge failed 2 times on this line: Model process died";
    assert_eq!(ended.output, format!("y\n{error}\ny\n"), "{ended:?}");
    assert_eq!(ended.code, Some(1), "{ended:?}");
}

#[test]
fn any_number_of_requests_that_a_bridge_works_on_is_believed() {
    let home = Directory::new();
    let _requests = parallel(&home, 1 << 63, |_| false);
    let ended = map(&home, &["--timeout", "30"], numbers(5, "", ""));
    assert_eq!((ended.code, ended.output), (Some(0), numbers(5, "<", ">")));
}
