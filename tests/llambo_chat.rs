//! llambo's conversations, at a terminal that script(1) makes.

use std::process::Command;

use crate::harness::{Bridge, Directory, smollm2_or_skip};
use crate::llambo::{Running, ask, expect_text, feed, llambo};
use crate::llambo_faults::{line_of, respond};

/// llambo at a terminal, in the directory of its bridge.
fn at_a_terminal(home: &Directory, arguments: &str) -> Command {
    let mut command = Command::new("script");
    let script = format!("'{}' {arguments}", env!("CARGO_BIN_EXE_llambo"));
    command
        .args(["-qec", &script, "/dev/null"])
        .current_dir(home.path());
    command.env("LLAMA_CPP_BRIDGE_SOCKET", home.socket());
    command
}

/// Answers each GENERATE with "answer N", and reports the requests.
fn numbered(home: &Directory) -> std::sync::mpsc::Receiver<String> {
    use std::io::Write;
    let mut number = 0;
    respond(home, move |mut stream, requests| {
        let request = line_of(&stream);
        let data = if request.starts_with("GENERATE") {
            number += 1;
            format!("answer {number}")
        } else {
            String::new()
        };
        let _ = requests.send(request);
        let reply = format!("{{\"status\":\"ok\",\"message\":\"Ready\",\"data\":\"{data}\"}}\n");
        let _ = stream.write_all(reply.as_bytes());
    })
}

#[test]
fn the_model_gets_all_turns_until_they_are_cleared() {
    let home = Directory::new();
    let requests = numbered(&home);
    let mut running = Running::start(&mut at_a_terminal(&home, "--system short --temp 0"));
    running.wait_for("Ctrl-D ends.");
    for (typed, shown) in [
        ("one\n", "answer 1"),
        ("two \\\nlines\n", "answer 2"),
        ("/nonsense\n", "no command /nonsense"),
        ("/help\n", "forget the conversation"),
        ("/clear\n//three\n", "answer 3"),
    ] {
        running.write(typed);
        running.wait_for(shown);
    }
    running.write("/exit\n");
    assert_eq!(running.child.wait().expect("llambo ends").code(), Some(0));
    let sent: Vec<String> = requests
        .try_iter()
        .filter(|line| line.starts_with("GEN"))
        .collect();
    let turn = |role: &str, text: &str| format!(r#"{{"role":"{role}","content":"{text}"}}"#);
    let system = turn("system", "short");
    let (one, first) = (turn("user", "one"), turn("assistant", "answer 1"));
    let two = turn("user", "two \\nlines");
    let object = |turns: &[&str]| {
        let turns = turns.join(",");
        format!("GENERATE {{\"messages\":[{turns}],\"stream\":true,\"temperature\":0}}\n")
    };
    assert_eq!(sent[0], object(&[&system, &one]));
    assert_eq!(sent[1], object(&[&system, &one, &first, &two]));
    assert_eq!(sent[2], object(&[&system, &turn("user", "/three")]));
    assert_eq!(sent.len(), 3);
}

#[test]
fn a_conversation_with_a_real_model_goes_on_from_turn_to_turn() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let _bridge = Bridge::with_model(&home, &model, &[]);
    let mut running = Running::start(&mut at_a_terminal(&home, "--json -n 24"));
    running.wait_for("Ctrl-D ends.");
    running.write("What is 2+2?\n");
    let first = running.wait_for("\"seed\":").to_string();
    assert!(first.contains('4'), "{first}");
    // Between the turns the bridge is free for others.
    expect_text(&ask(&home, &["ping"]), "pong\n");
    running.write("And then?\n\u{4}");
    let status = running.child.wait().expect("llambo ends");
    assert_eq!(status.code(), Some(0));
    let both = running.rest();
    let counts: Vec<usize> = both
        .split("\"prompt_tokens\":")
        .skip(1)
        .filter_map(|rest| rest.split(',').next()?.parse().ok())
        .collect();
    assert!(counts.len() == 2 && counts[1] > counts[0], "{both}");
}

#[test]
fn chat_answers_once_where_there_is_a_message() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let _bridge = Bridge::with_model(&home, &model, &[]);
    let ended = ask(&home, &["chat", "-n", "24", "What is 2+2?"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.output.contains('4'), "{ended:?}");
    let piped = feed(&mut llambo(&home, &["chat", "-n", "24"]), "What is 2+2?");
    assert_eq!(piped.output, ended.output);
}

#[test]
fn without_a_bridge_the_chat_does_not_begin() {
    let home = Directory::new();
    let ended = feed(&mut at_a_terminal(&home, ""), "hello\n");
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.output.contains("cannot connect to"), "{ended:?}");
}

#[test]
fn a_turn_that_fails_is_told_and_forgotten() {
    use std::io::Write;
    let home = Directory::new();
    let mut failed = false;
    let requests = respond(&home, move |mut stream, requests| {
        let request = line_of(&stream);
        let fail = request.starts_with("GENERATE") && !std::mem::replace(&mut failed, true);
        let _ = requests.send(request);
        let reply: &[u8] = if fail {
            b"{\"status\":\"error\",\"message\":\"Too much\",\"code\":\"context_exceeded\"}\n"
        } else {
            b"{\"status\":\"ok\",\"message\":\"Ready\",\"data\":\"fine\"}\n"
        };
        let _ = stream.write_all(reply);
    });
    let mut running = Running::start(&mut at_a_terminal(&home, "chat"));
    running.wait_for("Ctrl-D ends.");
    running.write("first\n");
    running.wait_for("Too much");
    running.wait_for("/clear begins a new one");
    running.write("second\n");
    running.wait_for("fine");
    let sent: Vec<String> = requests
        .try_iter()
        .filter(|line| line.starts_with("GEN"))
        .collect();
    assert!(!sent[1].contains("first"), "{sent:?}");
}
