//! `llambo map`: lines in, lines out, over one bridge and over several.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use crate::harness::{Bridge, Directory, Ended, LIMIT, Tiny, ok, process};
use crate::llambo::commands::{
    Running, ask, bridge_with, expect_failure, expect_text, feed, llambo,
};
use crate::llambo::faults::{line_of, respond};

/// Runs `llambo map` with the bridge of `home`.
pub(crate) fn map(home: &Directory, options: &[&str], input: impl AsRef<[u8]>) -> Ended {
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
pub(crate) fn map_over(homes: &[&Directory], options: &[&str]) -> Command {
    let sockets = sockets(homes);
    let mut arguments: Vec<&str> = sockets.iter().map(String::as_str).collect();
    arguments.push("map");
    arguments.extend(options);
    llambo(homes[0], &arguments)
}

/// The letters in turn, each the last of a prompt, a line each.
pub(crate) fn prompts(count: usize) -> String {
    (0..count)
        .map(|number| format!("{number} {}\n", letter(number)))
        .collect()
}

/// The last letter of the prompt of this number.
fn letter(number: usize) -> char {
    char::from(b'a' + (number % 26) as u8)
}

/// What a carousel says to the prompts in so many tokens.
pub(crate) fn carousel_answers(count: usize, tokens: usize) -> String {
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
        ended.errors.contains("2 of 3 answers were cut off"),
        "{ended:?}"
    );
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
    let (home, mut bridge) = bridge_with(&Tiny::carousel());
    let errors = home.join("errors");
    let file = std::fs::File::create(&errors).expect("a file can be made");
    let arguments = ["map", "-n", "300", "--retry", "0"];
    let mut running = Running::start(llambo(&home, &arguments).stderr(file));
    running.write(&prompts(2));
    running.wait_for(&carousel_answers(2, 300));
    process::signal(bridge.pid(), "KILL");
    bridge.wait();
    running.write(&prompts(5));
    let status = running.child.wait().expect("llambo ends");
    let errors = std::fs::read_to_string(errors).expect("the errors can be read");
    assert!(matches!(status.code(), Some(3 | 4)), "{status:?} {errors}");
    assert!(
        errors.contains("no bridge left: lines from 3 on are unanswered"),
        "{errors}"
    );
    let gone = Directory::new();
    expect_failure(&map(&gone, &[], "a\n"), 3, "cannot connect to");
}

#[test]
fn a_line_over_which_bridges_failed_twice_is_not_tried_a_third_time() {
    // Bridges that go away at the line "poison", as if it had killed them.
    let serve = |mut stream: UnixStream, _: &mpsc::Sender<String>| {
        line_of(&stream);
        let _ = stream.write_all(b"{\"status\":\"ok\",\"message\":\"x\"}\n");
        let _ = line_of(&stream);
    };
    let (one, two) = (Directory::new(), Directory::new());
    let (_one, _two) = (respond(&one, serve), respond(&two, serve));
    for homes in [&[&one, &two][..], &[&one]] {
        let ended = feed(&mut map_over(homes, &["--json"]), "poison\n");
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let message = "a bridge failed 2 times on this line: lost the bridge";
        assert!(ended.output.contains(message), "{ended:?}");
    }
}

/// A bridge of several requests at once: each is answered with its prompt in angle brackets.
/// `dies` is asked before a reply, with the prompts in hand, whether the bridge dies instead.
pub(crate) fn parallel(
    home: &Directory,
    count: usize,
    mut dies: impl FnMut(&[String]) -> bool + Send + 'static,
) -> mpsc::Receiver<String> {
    respond(home, move |mut stream, requests| {
        line_of(&stream);
        let info = format!("{{\"status\":\"ok\",\"message\":\"x\",\"parallel\":{count}}}\n");
        let _ = stream.write_all(info.as_bytes());
        let mut reader = BufReader::new(stream.try_clone().expect("a socket can be shared"));
        let mut inbox: Vec<String> = Vec::new();
        loop {
            // Waits for one, and takes what came with it.
            while inbox.is_empty() || !reader.buffer().is_empty() {
                let mut line = String::new();
                if !matches!(reader.read_line(&mut line), Ok(1..)) {
                    return;
                }
                let (_, prompt) = line.split_once(r#""prompt":""#).expect("a prompt");
                let prompt = prompt.split('"').next().expect("it ends").to_string();
                let _ = requests.send(prompt.clone());
                inbox.push(prompt);
            }
            if dies(&inbox[..inbox.len().min(count)]) {
                return;
            }
            let prompt = inbox.remove(0);
            let reply =
                format!("{{\"status\":\"ok\",\"message\":\"x\",\"data\":\"<{prompt}>\"}}\n");
            if stream.write_all(reply.as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// The numbers up to this one, a line each, between these.
pub(crate) fn numbers(count: usize, before: &str, after: &str) -> String {
    (0..count)
        .map(|n| format!("{before}{n}{after}\n"))
        .collect()
}

#[test]
fn a_bridge_has_as_many_requests_in_hand_as_it_works_on_and_as_many_again() {
    for (field, in_hand) in [("", 2), (",\"parallel\":3", 6), (",\"parallel\":0", 2)] {
        let home = Directory::new();
        let info = format!("{{\"status\":\"ok\",\"message\":\"x\"{field}}}\n");
        let requests = respond(&home, move |mut stream, requests| {
            let _ = requests.send(line_of(&stream));
            let _ = stream.write_all(info.as_bytes());
            // All of these are there before the first is answered, and no other.
            let all: String = (0..in_hand).map(|_| line_of(&stream)).collect();
            let _ = requests.send(all);
            stream.set_nonblocking(true).expect("a socket can be asked");
            let more = (&stream).read(&mut [0]).map_err(|error| error.kind());
            let _ = requests.send(format!("{more:?}"));
            stream
                .set_nonblocking(false)
                .expect("a socket can be asked");
            for _ in 0..8 {
                let _ = stream.write_all(b"{\"status\":\"ok\",\"message\":\"x\",\"data\":\"y\"}\n");
            }
            let _ = line_of(&stream);
        });
        let ended = map(&home, &["--timeout", "30"], numbers(8, "", ""));
        expect_text(&ended, &"y\n".repeat(8));
        let next = || requests.recv_timeout(LIMIT).expect("it comes");
        assert_eq!(next(), "INFO\n");
        assert_eq!(next().lines().count(), in_hand);
        assert_eq!(next(), "Err(WouldBlock)");
    }
}

#[test]
fn requests_in_hand_of_a_bridge_that_dies_are_neither_lost_nor_doubled() {
    let home = Directory::new();
    let mut replies = 0;
    let _requests = parallel(&home, 4, move |_| {
        replies += 1;
        replies % 7 == 0
    });
    let ended = map(&home, &[], numbers(50, "", ""));
    assert_eq!((ended.code, ended.output), (Some(0), numbers(50, "<", ">")));
}

#[test]
fn of_requests_in_hand_only_the_one_that_kills_the_bridge_is_given_up() {
    let home = Directory::new();
    let requests = parallel(&home, 4, |prompts| {
        prompts.iter().any(|prompt| prompt == "5")
    });
    let ended = map(&home, &[], numbers(12, "", ""));
    let answers: Vec<&str> = ended.output.lines().collect();
    assert_eq!(answers.len(), 12, "{ended:?}");
    for (number, answer) in answers.iter().enumerate() {
        match number {
            5 => assert!(
                answer.starts_with("error: a bridge failed 2 times on this line"),
                "{ended:?}"
            ),
            _ => assert_eq!(*answer, format!("<{number}>")),
        }
    }
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let asked = requests.try_iter().filter(|prompt| prompt == "5").count();
    assert_eq!(asked, 3, "once among others, twice alone");
}

#[test]
fn a_bridge_that_does_not_come_back_in_time_is_given_up() {
    for seconds in ["0", "0.3"] {
        let home = Directory::new();
        let socket = home.socket();
        let _requests = parallel(&home, 1, move |prompts| {
            let dies = prompts == ["2"];
            if dies {
                std::fs::remove_file(&socket).expect("the socket is there");
            }
            dies
        });
        let ended = map(&home, &["--retry", seconds], numbers(5, "", ""));
        assert_eq!(ended.output, "<0>\n<1>\n", "{ended:?}");
        assert_eq!(ended.code, Some(4), "{ended:?}");
        let message = "no bridge left: lines from 3 on are unanswered";
        assert!(ended.errors.contains(message), "{ended:?}");
        let waited = ended
            .errors
            .contains("; waiting up to 0.3 s for it to return");
        assert_eq!(waited, seconds == "0.3", "{ended:?}");
    }
}

#[test]
fn a_model_that_dies_over_a_line_and_comes_back_answers_the_rest() {
    let home = Directory::new();
    let mut died = 0;
    let _requests = respond(&home, move |mut stream, _| {
        line_of(&stream);
        let _ = stream.write_all(b"{\"status\":\"ok\",\"message\":\"x\"}\n");
        let mut reader = BufReader::new(stream.try_clone().expect("a socket can be shared"));
        let mut line = String::new();
        while matches!(reader.read_line(&mut line), Ok(1..)) {
            let reply: &[u8] = if line.contains("deadly") && died < 2 {
                died += 1;
                b"{\"status\":\"error\",\"message\":\"Model process died\",\"code\":\"model_died\"}\n"
            } else {
                b"{\"status\":\"ok\",\"message\":\"x\",\"data\":\"fine\"}\n"
            };
            let _ = stream.write_all(reply);
            line.clear();
        }
    });
    let ended = map(&home, &[], "one\ndeadly\ntwo\n");
    let error = "error: a bridge failed 2 times on this line: Model process died";
    assert_eq!(ended.output, format!("fine\n{error}\nfine\n"), "{ended:?}");
    assert_eq!(ended.code, Some(1), "{ended:?}");
}
