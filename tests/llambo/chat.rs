//! llambo's conversations, at a terminal that script(1) makes.

use std::process::Command;

use crate::harness::{Bridge, Directory, Tiny, smollm2_or_skip};
use crate::llambo::commands::{Running, ask, expect_text, feed, llambo};
use crate::llambo::faults::{line_of, respond};

/// llambo at a terminal, in the directory of its bridge.
fn at_a_terminal(home: &Directory, arguments: &str) -> Command {
    let mut command = Command::new("script");
    let script = format!("'{}' {arguments}", env!("CARGO_BIN_EXE_llambo"));
    command
        .args(["-qec", &script, "/dev/null"])
        .current_dir(home.path());
    command
        .env("LLAMA_CPP_BRIDGE_SOCKET", home.socket())
        .env("XDG_STATE_HOME", home.path())
        .env("TERM", "xterm");
    command
}

/// A bridge whose answers go on without an end, after the last letter of the message.
fn bridge_with_template() -> (Directory, Bridge) {
    let home = Directory::new();
    let template = home.join("template");
    std::fs::write(&template, "{{ messages[-1].content }}").expect("it can be written");
    let model = Tiny::endless().write(home.join("model.gguf"));
    let template = template.display().to_string();
    let bridge = Bridge::with_model(&home, &model, &["--chat-template-file", &template]);
    (home, bridge)
}

/// What the terminal gets when a line can be edited: pasted text is to be marked as such.
const READY: &str = "\u{1b}[?2004h";

/// Types a line at the prompt, as soon as it is there.
fn type_line(running: &mut Running, keys: &str) {
    running.next(READY);
    running.write(keys);
}

/// The contents of the messages that a request holds.
fn messages(request: &str) -> Vec<String> {
    let parts = request.split(r#""content":""#).skip(1);
    parts
        .filter_map(|part| Some(part.split_once("\"}")?.0.to_string()))
        .collect()
}

/// The GENERATE requests among those that came.
fn asked(requests: &std::sync::mpsc::Receiver<String>) -> Vec<Vec<String>> {
    let generates = requests.try_iter().filter(|line| line.starts_with("GEN"));
    generates.map(|request| messages(&request)).collect()
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
    running.next("Ctrl-D to leave.");
    for (typed, shown) in [
        ("one\n", "answer 1"),
        ("two \\\nlines\n", "answer 2"),
        ("/nonsense\n", "unknown command /nonsense"),
        ("/help\n", "forget the conversation"),
        ("/clear\n//three\n", "answer 3"),
    ] {
        type_line(&mut running, typed);
        running.next(shown);
    }
    type_line(&mut running, "/exit\n");
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
    type_line(&mut running, "What is 2+2?\n");
    let first = running.next("\"seed\":");
    assert!(first.contains('4'), "{first}");
    // Between the turns the bridge is free for others.
    expect_text(&ask(&home, &["ping"]), "pong\n");
    type_line(&mut running, "And then?\n");
    type_line(&mut running, "\u{4}");
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
    type_line(&mut running, "first\n");
    let told = running.next("Too much");
    // There is nothing to forget yet.
    assert!(!told.contains("/clear frees"), "{told}");
    type_line(&mut running, "second\n");
    running.next("fine");
    assert_eq!(asked(&requests), [["first"], ["second"]]);
}

#[test]
fn lines_are_edited_and_found_again_in_the_next_chat() {
    let home = Directory::new();
    let requests = numbered(&home);
    let mut running = Running::start(&mut at_a_terminal(&home, ""));
    let (left, up, home_key, backspace) = ("\u{1b}[D", "\u{1b}[A", "\u{1}", "\u{7f}");
    type_line(&mut running, &format!("helo{left}l\r"));
    running.next("answer 1");
    type_line(
        &mut running,
        &format!("xsecond!{backspace}{home_key}\u{4}\r"),
    );
    running.next("answer 2");
    type_line(&mut running, &format!("{up}{up} again\r"));
    running.next("answer 3");
    type_line(&mut running, "\u{4}");
    assert_eq!(running.child.wait().expect("llambo ends").code(), Some(0));
    let last = |requests| {
        let turns: Vec<Vec<String>> = asked(requests);
        turns
            .into_iter()
            .map(|mut turns| turns.pop().unwrap_or_default())
            .collect::<Vec<_>>()
    };
    assert_eq!(last(&requests), ["hello", "second", "hello again"]);
    let file = home.join("llambo/history");
    let mode = std::fs::metadata(&file)
        .expect("there is a history")
        .permissions();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777,
        0o600
    );
    let before = std::fs::read_to_string(&file).expect("it is text");
    assert!(before.ends_with("hello\nsecond\nhello again\n"), "{before}");

    let mut running = Running::start(&mut at_a_terminal(&home, "chat"));
    type_line(&mut running, &format!("{up}{up}\r"));
    running.next("answer 4");
    type_line(&mut running, " a secret\r");
    running.next("answer 5");
    type_line(&mut running, "\u{4}");
    assert_eq!(running.child.wait().expect("llambo ends").code(), Some(0));
    assert_eq!(last(&requests), ["second", " a secret"]);
    let with_history = std::fs::read_to_string(&file).expect("it is text");
    assert!(!with_history.contains("secret"), "{with_history}");

    let mut running = Running::start(&mut at_a_terminal(&home, "chat --no-history"));
    type_line(&mut running, &format!("{up}untold\r"));
    running.next("answer 6");
    type_line(&mut running, "\u{4}");
    assert_eq!(running.child.wait().expect("llambo ends").code(), Some(0));
    assert_eq!(last(&requests), ["untold"]);
    assert_eq!(
        std::fs::read_to_string(&file).expect("it is text"),
        with_history
    );
}

#[test]
fn a_pasted_text_of_several_lines_is_one_message() {
    let home = Directory::new();
    let requests = numbered(&home);
    let mut running = Running::start(&mut at_a_terminal(&home, ""));
    // Terminals send a carriage return for each newline, and mark what is pasted.
    type_line(
        &mut running,
        "See: \u{1b}[200~one \\\r\ttwo\r\rthree\r\u{1b}[201~",
    );
    running.write("\r");
    running.next("answer 1");
    type_line(&mut running, "two \\\r");
    type_line(&mut running, "lines\r");
    running.next("answer 2");
    let turns = asked(&requests);
    assert_eq!(turns[0], [r"See: one \\\n\ttwo\n\nthree"]);
    assert_eq!(turns[1][2], r"two \nlines");
}

#[test]
fn an_interrupt_ends_the_answer_and_not_the_chat() {
    let (home, _bridge) = bridge_with_template();
    let mut running = Running::start(&mut at_a_terminal(&home, "-n -1"));
    type_line(&mut running, "first a\r");
    running.next("bcdefgh");
    running.write("\u{3}");
    running.next("llambo: interrupted; press Ctrl-C at an empty prompt to leave");
    running.next(READY);
    // The bridge's work is stopped too.
    expect_text(&ask(&home, &["ping"]), "pong\n");
    // What is typed is dropped, and the chat is still there.
    running.write("dropped\u{3}");
    type_line(&mut running, "second x\r");
    running.next("yzabc");
    running.write("\u{3}");
    running.next("interrupted");
    type_line(&mut running, "\u{3}");
    assert_eq!(running.child.wait().expect("llambo ends").code(), Some(130));
}

#[test]
fn a_stopped_answer_stays_in_the_conversation_as_far_as_it_came() {
    use std::io::Write;
    let home = Directory::new();
    let mut number = 0;
    let requests = respond(&home, move |mut stream, requests| {
        let request = line_of(&stream);
        let answered = request.starts_with("GENERATE");
        let _ = requests.send(request);
        number += usize::from(answered);
        let reply: &[u8] = match (answered, number) {
            (true, 1) => b"{\"status\":\"partial\",\"message\":\"token\",\"data\":\"half\"}\n",
            (true, 2) => b"",
            _ => b"{\"status\":\"ok\",\"message\":\"Ready\",\"data\":\"whole\"}\n",
        };
        let _ = stream.write_all(reply);
        // Goes on once llambo has closed the connection.
        let _ = line_of(&stream);
    });
    let mut running = Running::start(&mut at_a_terminal(&home, ""));
    type_line(&mut running, "one\r");
    running.next("half");
    running.write("\u{3}");
    running.next("interrupted");
    type_line(&mut running, "two\r");
    let asked_twice = requests
        .iter()
        .filter(|line| line.starts_with("GEN"))
        .nth(1);
    assert_eq!(
        messages(&asked_twice.expect("it comes")),
        ["one", "half", "two"]
    );
    running.write("\u{3}");
    running.next("interrupted");
    type_line(&mut running, "three\r");
    running.next("whole");
    assert_eq!(asked(&requests), [["one", "half", "three"]]);
}

#[test]
fn where_the_context_is_full_the_oldest_turns_can_be_dropped() {
    use std::io::Write;
    let home = Directory::new();
    // Room for three messages: more are too much.
    let requests = respond(&home, move |mut stream, requests| {
        let request = line_of(&stream);
        let count = messages(&request).len();
        let reply = if count > 4 {
            "{\"status\":\"error\",\"message\":\"Too much\",\"code\":\"context_exceeded\"}\n"
                .to_string()
        } else {
            format!(
                "{{\"status\":\"ok\",\"message\":\"Ready\",\"data\":\"answer to {count}\",\
                 \"finish_reason\":\"stop\",\"prompt_tokens\":{count},\"completion_tokens\":7}}\n"
            )
        };
        let _ = requests.send(request);
        let _ = stream.write_all(reply.as_bytes());
    });
    let mut running = Running::start(&mut at_a_terminal(&home, "--system s"));
    type_line(&mut running, "/drop\r");
    running.next("turns forgotten: 0");
    for (message, answer) in [("one", "answer to 2"), ("two", "answer to 4")] {
        type_line(&mut running, &format!("{message}\r"));
        running.next(answer);
    }
    type_line(&mut running, "three\r");
    running.next("Too much");
    running.next(
        "llambo: /clear frees the 11 tokens of this conversation; /drop forgets only its oldest turns",
    );
    type_line(&mut running, "/drop\r");
    running.next("answer to 4");
    running.next("turns forgotten: 1");
    let turns = asked(&requests);
    assert_eq!(turns[3], ["s", "two", "answer to 4", "three"]);
    type_line(&mut running, "/drop\r");
    running.next("turns forgotten: 1");
    type_line(&mut running, "/clear\r");
    type_line(&mut running, "four\r");
    running.next("answer to 2");
    assert_eq!(asked(&requests), [["s", "four"]]);
}

#[test]
fn a_terminal_that_cannot_edit_refuses_control_characters() {
    let home = Directory::new();
    let requests = numbered(&home);
    let mut running = Running::start(at_a_terminal(&home, "").env("TERM", "dumb"));
    running.next("Ctrl-D to leave.");
    running.next("> ");
    running.write("helo\u{1b}[Dl\n");
    running.next(
        "llambo: not sent: the line contains control characters, such as those of arrow keys",
    );
    running.next("try: rlwrap llambo");
    running.next("> ");
    running.write("fine\n");
    running.next("answer 1");
    assert_eq!(asked(&requests), [["fine"]]);
    running.next("> ");
    // Here it is the terminal that makes a signal of it.
    running.write("\u{3}");
    assert_eq!(running.child.wait().expect("llambo ends").code(), Some(130));
}

#[test]
fn a_line_that_is_no_text_is_dropped_and_the_chat_goes_on() {
    use std::io::Write;
    for (terminal, ready) in [("xterm", READY), ("dumb", "> ")] {
        let home = Directory::new();
        let requests = numbered(&home);
        let mut running = Running::start(at_a_terminal(&home, "").env("TERM", terminal));
        running.next("Ctrl-D to leave.");
        running.next(ready);
        running.write("one\r");
        running.next("answer 1");
        running.next(ready);
        let mut keys = running.child.stdin.as_ref().expect("it is a pipe");
        keys.write_all(b"\xe9t\xe9\r").expect("llambo reads");
        running.next("llambo: that line is not valid UTF-8");
        running.next(ready);
        running.write("\u{15}two\r");
        running.next("answer 2");
        assert_eq!(
            asked(&requests)[1],
            ["one", "answer 1", "two"],
            "{terminal}"
        );
    }
}
