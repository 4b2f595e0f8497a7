//! `llambo map`: lines in, lines out, over one bridge and over several.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use crate::harness::{Bridge, Directory, Ended, LIMIT, Tiny, ok, process, smollm2_or_skip};
use crate::llambo::{Running, ask, bridge_with, expect_failure, expect_text, feed, llambo};
use crate::llambo_faults::{line_of, respond};

/// Runs `llambo map` with the bridge of `home`.
fn map(home: &Directory, options: &[&str], input: impl AsRef<[u8]>) -> Ended {
    feed(&mut llambo(home, &[&["map"], options].concat()), input)
}

/// The options that name the sockets of several bridges.
fn sockets(homes: &[&Directory]) -> Vec<String> {
    homes
        .iter()
        .flat_map(|home| ["-s".to_string(), home.socket().display().to_string()])
        .collect()
}

/// A `llambo map` over several bridges.
fn map_over(homes: &[&Directory], options: &[&str]) -> Command {
    let sockets = sockets(homes);
    let mut arguments: Vec<&str> = sockets.iter().map(String::as_str).collect();
    arguments.push("map");
    arguments.extend(options);
    llambo(homes[0], &arguments)
}

/// The letters in turn, each the last of a prompt, a line each.
fn prompts(count: usize) -> String {
    (0..count)
        .map(|number| format!("{number} {}\n", letter(number)))
        .collect()
}

/// The last letter of the prompt of this number.
fn letter(number: usize) -> char {
    char::from(b'a' + (number % 26) as u8)
}

/// What a carousel says to the prompts in so many tokens.
fn carousel_answers(count: usize, tokens: usize) -> String {
    let answer = |number: usize| {
        (1..=tokens)
            .map(|step| letter(number + step))
            .collect::<String>()
    };
    (0..count).map(|number| answer(number) + "\n").collect()
}

#[test]
fn answers_come_in_the_order_of_the_lines() {
    let (home, _bridge) = bridge_with(&Tiny::carousel());
    expect_text(
        &map(&home, &["-n", "3"], prompts(100)),
        &carousel_answers(100, 3),
    );
    expect_text(&map(&home, &["-n", "3"], "say a\r\nsay b"), "bcd\ncde\n");
    expect_text(&map(&home, &["-n", "3"], ""), "");
}

#[test]
fn newlines_in_an_answer_are_shown_or_kept_by_null_and_json() {
    let (home, _bridge) = bridge_with(&Tiny::mute().chain("ab\ncd"));
    expect_text(&map(&home, &[], "a\nb\n"), "b\\ncd\n\\ncd\n");
    expect_text(&map(&home, &["-0"], "line\na\0b"), "b\ncd\0\ncd\0");
    let ended = map(&home, &["--json"], "a\nd\n");
    let lines: Vec<&str> = ended.output.lines().collect();
    assert_eq!((ended.code, lines.len()), (Some(0), 2), "{ended:?}");
    assert!(
        lines[0].starts_with(r#"{"status":"ok","message":"Inference completed","data":"b\ncd","#)
    );
    assert!(lines[1].contains(r#""data":"""#), "{ended:?}");
}

#[test]
fn the_template_takes_the_line_wherever_it_says() {
    let (home, _bridge) = bridge_with(&Tiny::carousel());
    let ended = map(
        &home,
        &["-n", "2", "--template", "say {}, then {}"],
        "x\nc\n",
    );
    expect_text(&ended, "yz\nde\n");
    let ended = map(
        &home,
        &["--json", "-n", "1", "--template", "{} and {}a"],
        "x\n",
    );
    let count = format!(r#""prompt_tokens":{}"#, "x and xa".len() + 1);
    assert!(ended.output.contains(&count), "{ended:?}");
}

#[test]
fn embeddings_come_a_line_each() {
    let (home, _bridge) = bridge_with(&Tiny::alphabet());
    let ended = map(&home, &["--embed"], "one\ntwo\n");
    let single = ask(&home, &["embed", "two"]);
    assert_eq!(
        (ended.code, ended.output.lines().count()),
        (Some(0), 2),
        "{ended:?}"
    );
    assert_eq!(ended.output.lines().nth(1), single.output.lines().next());
}

#[test]
fn an_error_on_one_line_is_its_answer_and_the_rest_goes_on() {
    let (home, _bridge) = bridge_with(&Tiny::carousel());
    let mut input = b"a\n".to_vec();
    input.extend("a".repeat(600).bytes());
    input.extend(b"\n\xff\nb\n");
    let ended = map(&home, &["-n", "2"], &input);
    let long = "Prompt of 601 tokens exceeds the context of 512 tokens";
    let bytes = "the line is not valid UTF-8: byte 0xff at offset 0";
    assert_eq!(
        ended.output,
        format!("bc\nerror: {long}\nerror: {bytes}\ncd\n")
    );
    assert_eq!(
        ended.errors,
        format!("llambo: line 2: {long}\nllambo: line 3: {bytes}\n")
    );
    assert_eq!(ended.code, Some(1));
    let ended = map(&home, &["-n", "2", "--json"], &input);
    let lines: Vec<&str> = ended.output.lines().collect();
    let reply = r#"{"status":"error","message":"Prompt of 601 tokens exceeds the context of 512 tokens","code":"context_exceeded"}"#;
    assert_eq!((lines.len(), lines[1]), (4, reply), "{ended:?}");
    assert!(lines[2].starts_with(r#"{"status":"error","message":"the line is not valid UTF-8"#));
}

#[test]
fn answers_that_the_bridge_cuts_are_counted() {
    let (home, _bridge) = bridge_with(&Tiny::carousel().choice(b'!', "\n"));
    let ended = map(&home, &[], "a\n!\nb\n");
    assert_eq!(
        (ended.code, ended.output.lines().count()),
        (Some(0), 3),
        "{ended:?}"
    );
    assert!(
        ended.errors.contains("2 of 3 answers were cut"),
        "{ended:?}"
    );
}

#[test]
fn the_next_request_is_sent_before_an_answer_is_there() {
    let home = Directory::new();
    let requests = respond(&home, |mut stream, requests| {
        line_of(&stream);
        let _ = stream.write_all(b"{\"status\":\"ok\",\"message\":\"pong\"}\n");
        // Two requests are read before the first is answered.
        let both = line_of(&stream) + &line_of(&stream);
        let _ = requests.send(both);
        for text in ["one", "two"] {
            let reply = format!("{{\"status\":\"ok\",\"message\":\"x\",\"data\":\"{text}\"}}\n");
            let _ = stream.write_all(reply.as_bytes());
        }
    });
    let ended = map(&home, &["--timeout", "30"], "a\nb\n");
    expect_text(&ended, "one\ntwo\n");
    let both = requests.recv_timeout(LIMIT).expect("both requests came");
    assert_eq!(both.lines().count(), 2, "{both}");
}

#[test]
fn lines_go_to_whichever_bridge_is_free() {
    // Each bridge is known by its answer.
    let (one, first) = bridge_with(&Tiny::mute().chain("ab"));
    let (two, second) = bridge_with(&Tiny::mute().chain("ac"));
    let mut holder = first.connect();
    holder.exchange("PING", &ok("pong"));
    let mut running = Running::start(&mut map_over(&[&one, &two], &[]));
    running.write(&"a\n".repeat(50));
    running.wait_for(&"c\n".repeat(50));
    // Without lines to ask, llambo leaves the bridge to others.
    let mut other = second.connect();
    other.exchange("PING", &ok("pong"));
    holder.vanish();
    running.write(&"a\n".repeat(50));
    running.wait_for(&"b\n".repeat(50));
}

#[test]
fn a_bridge_that_dies_leaves_its_lines_to_the_others() {
    let (one, bridge) = bridge_with(&Tiny::carousel());
    let (two, _two) = bridge_with(&Tiny::carousel());
    let mut running = Running::start(&mut map_over(&[&one, &two], &["-n", "300"]));
    running.write(&prompts(40));
    running.wait_for("\n");
    process::signal(bridge.pid(), "KILL");
    running.write(&prompts(40));
    drop(running.child.stdin.take());
    let expected = carousel_answers(40, 300).repeat(2);
    assert_eq!(running.wait_for(&expected), expected);
    assert_eq!(running.child.wait().expect("llambo ends").code(), Some(0));
}

#[test]
fn a_bridge_that_is_busy_keeps_no_lines() {
    let (busy, _busy) = bridge_with(&Tiny::endless());
    let (free, _free) = bridge_with(&Tiny::carousel());
    let mut holder =
        Running::start(llambo(&busy, &["infer", "-n", "-1", "a"]).stderr(Stdio::null()));
    drop(holder.child.stdin.take());
    holder.wait_for("bcd");
    let ended = feed(&mut map_over(&[&busy, &free], &["-n", "3"]), prompts(50));
    expect_text(&ended, &carousel_answers(50, 3));
}

#[test]
fn a_bridge_without_a_model_leaves_its_lines_to_the_others() {
    let empty = Directory::new();
    let _empty = Bridge::start(&empty, &[]);
    let (home, _bridge) = bridge_with(&Tiny::carousel());
    let ended = feed(&mut map_over(&[&empty, &home], &["-n", "3"]), prompts(50));
    assert_eq!(
        (ended.code, ended.output),
        (Some(0), carousel_answers(50, 3))
    );
}

#[test]
fn without_any_bridge_left_llambo_says_where_the_answers_end() {
    let (home, bridge) = bridge_with(&Tiny::carousel());
    let errors = home.join("errors");
    let file = std::fs::File::create(&errors).expect("a file can be made");
    let mut running = Running::start(llambo(&home, &["map", "-n", "300"]).stderr(file));
    running.write(&prompts(2));
    running.wait_for(&carousel_answers(2, 300));
    let model = bridge.model_process();
    process::signal(model, "KILL");
    process::wait_for_end(model);
    running.write(&prompts(5));
    let status = running.child.wait().expect("llambo ends");
    let errors = std::fs::read_to_string(errors).expect("the errors can be read");
    assert!(matches!(status.code(), Some(1 | 4)), "{status:?} {errors}");
    assert!(
        errors.contains("no bridge left: the lines from 3 on are not answered"),
        "{errors}"
    );
    let gone = Directory::new();
    expect_failure(&map(&gone, &[], "a\n"), 3, "cannot connect to");
}

#[test]
fn a_line_over_which_two_bridges_fail_is_not_tried_a_third_time() {
    // Bridges that go away at the line "poison", as if it had killed them.
    let serve = |mut stream: std::os::unix::net::UnixStream, _: &mpsc::Sender<String>| {
        line_of(&stream);
        let _ = stream.write_all(b"{\"status\":\"ok\",\"message\":\"pong\"}\n");
        let _ = line_of(&stream);
    };
    let (one, two) = (Directory::new(), Directory::new());
    let (_one, _two) = (respond(&one, serve), respond(&two, serve));
    let ended = feed(&mut map_over(&[&one, &two], &["--json"]), "poison\n");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended
            .output
            .contains("2 bridges failed at this line: lost the bridge"),
        "{ended:?}"
    );
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
    let script = "yes a | \"$0\" map -n 100";
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
