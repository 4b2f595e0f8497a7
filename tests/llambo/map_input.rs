//! `llambo map`: what it reads and where it writes; terminals, pipes and odd lines.

use std::io::{Read, Write};
use std::process::Command;

use crate::harness::{Bridge, Directory, LIMIT, Tiny, smollm2_or_skip};
use crate::llambo::commands::{Running, ask, bridge_with, expect_text, feed};
use crate::llambo::faults::{line_of, respond};
use crate::llambo::map::{carousel_answers, map, map_over, prompts};

#[test]
fn an_empty_line_gives_an_empty_line() {
    let (home, _bridge) = bridge_with(&Tiny::carousel());
    for options in [&["-n", "2"][..], &["-n", "2", "--template", "say {}"]] {
        expect_text(&map(&home, options, "a\n\r\n\nb"), "bc\n\n\ncd\n");
    }
    let ended = map(&home, &["-0", "-n", "2"], "\0a\0");
    expect_text(&ended, "\0bc\0");
    let ended = map(&home, &["--embed"], "\na\n");
    assert_eq!(
        (ended.code, ended.output.lines().next()),
        (Some(0), Some(""))
    );
}

#[test]
fn blanks_before_a_text_to_embed_are_sent() {
    let home = Directory::new();
    let requests = respond(&home, |mut stream, requests| {
        line_of(&stream);
        let _ = stream.write_all(b"{\"status\":\"ok\",\"message\":\"x\"}\n");
        let mut request = [0; "10:EMBED   ab,".len()];
        let _ = stream.read_exact(&mut request);
        let _ = requests.send(String::from_utf8_lossy(&request).into_owned());
        let _ = stream.write_all(b"{\"status\":\"ok\",\"message\":\"x\",\"embedding\":[1]}\n");
    });
    expect_text(&map(&home, &["--embed"], "  ab\n"), "1\n");
    let sent = requests.recv_timeout(LIMIT);
    assert_eq!(sent.as_deref(), Ok("10:EMBED   ab,"));
}

#[test]
fn a_line_that_is_too_long_is_an_error_and_one_without_an_end_ends_the_input() {
    let (home, _bridge) = bridge_with(&Tiny::carousel().context(4096));
    let bound = ["-n", "2", "--max-request", "1024"];
    let fits = "a".repeat(1024);
    let input = format!("{fits}\r\n{fits}a\r\nb\n{fits}a");
    let ended = map(&home, &bound, input);
    let message = "the line exceeds the limit of 1024 bytes; \
                   raise it with --max-request, here and for the bridge";
    let error = format!("error: {message}\n");
    assert_eq!(ended.output, format!("bc\n{error}cd\n{error}"));
    let told = |line| format!("llambo: line {line}: {message}\n");
    assert_eq!(ended.errors, told(2) + &told(4));
    let script = "{ echo a; head -c 1100000000 /dev/zero; } | \"$0\" map -n 2";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_llambo")]);
    let ended = feed(command.env("LLAMA_CPP_BRIDGE_SOCKET", home.socket()), "");
    assert!(
        ended
            .output
            .starts_with("bc\nerror: the line exceeds the limit of 4194304"),
        "{ended:?}"
    );
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let message = "llambo: cannot read standard input: a line does not end within 1 GiB\n";
    assert!(ended.errors.contains(message), "{ended:?}");
}

#[test]
fn where_prompts_are_typed_no_progress_comes_between() {
    let (home, _bridge) = bridge_with(&Tiny::carousel());
    let mut command = Command::new("script");
    let script = format!("'{}' map -n 3", env!("CARGO_BIN_EXE_llambo"));
    command.args(["-qec", &script, "/dev/null"]);
    let mut running = Running::start(command.env("LLAMA_CPP_BRIDGE_SOCKET", home.socket()));
    running.write("say a\n");
    running.next("bcd\r\n");
    running.write("say x\n");
    running.next("yza\r\n");
    running.write("\u{4}");
    assert_eq!(running.child.wait().expect("llambo ends").code(), Some(0));
    let shown = running.rest();
    assert!(!shown.contains("done"), "{shown}");
}

#[test]
fn a_silent_bridge_is_given_up_after_the_timeout() {
    let silent = Directory::new();
    let mut held = Vec::new();
    let _requests = respond(&silent, move |mut stream, _| {
        line_of(&stream);
        let _ = stream.write_all(b"{\"status\":\"ok\",\"message\":\"pong\"}\n");
        held.push(stream);
    });
    let ended = map(&silent, &["--timeout", "0.3"], "a\nb\n");
    assert_eq!(
        (ended.code, ended.output.as_str()),
        (Some(4), ""),
        "{ended:?}"
    );
    let (home, _bridge) = bridge_with(&Tiny::carousel());
    let ended = feed(
        &mut map_over(&[&silent, &home], &["--timeout", "2", "-n", "3"]),
        prompts(50),
    );
    assert_eq!(
        (ended.code, ended.output),
        (Some(0), carousel_answers(50, 3))
    );
}

#[test]
fn a_closed_pipe_ends_map_quietly() {
    let (home, _bridge) = bridge_with(&Tiny::carousel());
    let script = "yes a | { \"$0\" map -n 3; echo \"status $?\" >&2; } | head -n 2";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_llambo")]);
    command.env("LLAMA_CPP_BRIDGE_SOCKET", home.socket());
    let ended = feed(&mut command, "");
    assert_eq!(
        (ended.output.as_str(), ended.errors.as_str()),
        ("bcd\nbcd\n", "status 0\n")
    );
    expect_text(&ask(&home, &["ping"]), "pong\n");
}

#[test]
fn a_terminal_shows_how_far_the_work_is() {
    let (home, _bridge) = bridge_with(&Tiny::carousel());
    std::fs::write(home.join("prompts"), prompts(200)).expect("a file can be written");
    let script = format!(
        "'{}' map -n 300 < prompts > answers",
        env!("CARGO_BIN_EXE_llambo")
    );
    let mut command = Command::new("script");
    command
        .args(["-qec", &script, "/dev/null"])
        .current_dir(home.path());
    command.env("LLAMA_CPP_BRIDGE_SOCKET", home.socket());
    let ended = feed(&mut command, "");
    assert!(ended.output.contains(" of 200 done, "), "{ended:?}");
    assert!(ended.output.contains("/s, 0:0"), "{ended:?}");
    assert!(ended.output.contains(" left"), "{ended:?}");
    let answers = std::fs::read_to_string(home.join("answers")).expect("there are answers");
    assert_eq!(answers, carousel_answers(200, 300));
}

#[test]
fn a_long_run_lets_other_clients_have_their_turn() {
    let (home, _bridge) = bridge_with(&Tiny::carousel());
    let script = "yes a | \"$0\" map -n 100 --retry 0";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_llambo")]);
    command.env("LLAMA_CPP_BRIDGE_SOCKET", home.socket());
    let mut running = Running::start(&mut command);
    running.wait_for("bcd");
    expect_text(&ask(&home, &["ping"]), "pong\n");
    assert!(
        running
            .child
            .try_wait()
            .expect("a child can be asked for")
            .is_none()
    );
}

#[test]
fn each_line_of_a_chat_is_a_turn_of_its_own() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let _bridge = Bridge::with_model(&home, &model, &[]);
    let options = ["--chat", "--system", "You answer in one word.", "-n", "8"];
    let ended = map(
        &home,
        &options,
        "What is the capital of France?\nWhat is 2+2?\n",
    );
    let once = ask(&home, &[&["chat", "What is 2+2?"], &options[1..]].concat());
    assert_eq!(
        (ended.code, once.code),
        (Some(0), Some(0)),
        "{ended:?} {once:?}"
    );
    let first_line = once.output.trim_end().replace('\n', "\\n");
    assert_eq!(ended.output.lines().nth(1), Some(first_line.as_str()));
}
