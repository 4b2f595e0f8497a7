//! The boundary: whatever the model process says, the bridge answers, with little memory and a short
//! log, and goes on.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::harness::{
    Bridge, Directory, Tiny, completed, failure, ok, process, stand_in, stand_in_of, wait_until,
};

/// The seed of the requests.
const SEED: u32 = 7;

pub(super) fn bridge_with(home: &Directory, program: &Path, options: &[&str]) -> Bridge {
    let model = Tiny::mute().write(home.join("tiny.gguf"));
    let program = program.to_str().expect("test paths are UTF-8");
    let always = ["--model-program", program, "--seed", "7"];
    Bridge::with_model(home, &model, &[&always, options].concat())
}

/// A stand-in that says this when it has its first request.
fn saying(home: &Directory, message: &str) -> PathBuf {
    let message = message.replace('\'', "'\\''");
    stand_in(
        home,
        &format!("read -r request; printf '%s\\n' '{message}' >&0\nread -r end"),
    )
}

/// A generated text, as the model process reports it, with one field in place of another.
fn done(change: (&str, &str)) -> String {
    let message = format!(
        r#"done 1 {{"text":"a","finish_reason":"stop","prompt_tokens":1,"cached_tokens":0,"completion_tokens":1,"prompt_ms":1,"completion_ms":1,"seed":{SEED}}}"#
    );
    assert!(message.contains(change.0), "{change:?}");
    message.replacen(change.0, change.1, 1)
}

/// For each verb what a process might say, and why it is killed for it.
fn lies() -> Vec<(&'static str, String, &'static str)> {
    let done_rows = [
        (
            r#""prompt_ms":1"#,
            r#""prompt_ms":1e300"#,
            "prompt_ms 1e300 and completion_ms 1e0 after N ms",
        ),
        (
            r#""prompt_ms":1"#,
            r#""prompt_ms":1.8e22"#,
            "prompt_ms 1.8e22 and completion_ms 1e0 after N ms",
        ),
        (
            r#""prompt_ms":1"#,
            r#""prompt_ms":-1"#,
            "prompt_ms -1e0 and completion_ms 1e0 after N ms",
        ),
        (
            r#""completion_ms":1"#,
            r#""completion_ms":1e999"#,
            "not a message",
        ),
        (
            r#""completion_ms":1"#,
            r#""completion_ms":null"#,
            "not a message",
        ),
        (
            r#""completion_ms":1"#,
            r#""completion_ms":9000"#,
            "prompt_ms 1e0 and completion_ms 9e3 after N ms",
        ),
        (
            r#""prompt_tokens":1"#,
            r#""prompt_tokens":0"#,
            "prompt_tokens 0, which is not within 1 to 8",
        ),
        (
            r#""prompt_tokens":1"#,
            r#""prompt_tokens":9"#,
            "prompt_tokens 9, which is not within 1 to 8",
        ),
        (
            r#""prompt_tokens":1"#,
            r#""prompt_tokens":4294967296"#,
            "not a message",
        ),
        (
            r#""cached_tokens":0"#,
            r#""cached_tokens":2"#,
            "cached_tokens 2, which is not within 0 to 1",
        ),
        (
            r#""completion_tokens":1"#,
            r#""completion_tokens":9"#,
            "completion_tokens 9, which is not within 0 to 8",
        ),
        (
            r#""seed":7"#,
            r#""seed":8"#,
            "seed 8, which is not within 7 to 7",
        ),
        (
            r#""finish_reason":"stop""#,
            r#""finish_reason":"bored""#,
            "not a message",
        ),
        (r#","seed":7"#, "", "not a message"),
        (
            r#""seed":7"#,
            r#""seed":7,"more":[[[[]]]]"#,
            "not a message",
        ),
        ("done 1", "done 2", "an answer to 2, which was not asked"),
        ("done 1", "done 0", "an answer to 0, which was not asked"),
        ("done 1", "done -1", "not a message"),
    ];
    let mut rows: Vec<_> = done_rows
        .map(|(old, new, reason)| ("INFER w", done((old, new)), reason))
        .into();
    let others = [
        (
            "STREAM w",
            r#"piece 2 "a""#,
            "a part of an answer to 2, which was not asked",
        ),
        ("STREAM w", r#"piece 1 """#, "an empty part of an answer"),
        (
            "TOKENIZE w",
            "more_tokens 1 []",
            "an empty part of an answer",
        ),
        (
            "TOKENIZE w",
            "more_tokens 1 [1]",
            "1 is not a token of the model",
        ),
        (
            "INFER w",
            "more_tokens 1 [0]",
            "a part of an answer of another kind than was asked for",
        ),
        (
            "EMBED w",
            r#"piece 1 "a""#,
            "a part of an answer of another kind than was asked for",
        ),
        (
            "EMBED w",
            "more_values 1 [1,2]",
            "an answer of 2 numbers, where 1 are possible",
        ),
        (
            "INFER w",
            r#"text 1 "a""#,
            "an answer of another kind than was asked for",
        ),
        (
            "INFER w",
            "tokens 1 [1]",
            "an answer of another kind than was asked for",
        ),
        (
            "INFER w",
            r#"embedding 1 {"values":[1],"prompt_tokens":1}"#,
            "an answer of another kind than was asked for",
        ),
        (
            "INFER w",
            r#"state 1 {"tokens":1,"bytes":1}"#,
            "an answer of another kind than was asked for",
        ),
        (
            "INFER w",
            r#"failed 1 {"code":"model_died","message":"a"}"#,
            "the code model_died, which is not its own",
        ),
        (
            "INFER w",
            r#"failed 1 {"code":"unauthenticated","message":"a"}"#,
            "the code unauthenticated, which is not its own",
        ),
        (
            "INFER w",
            r#"failed 1 {"code":"bored","message":"a"}"#,
            "not a message",
        ),
        (
            "INFER w",
            r#"notice 0 "a""#,
            "a notice while it serves requests",
        ),
        (
            "INFER w",
            r#"refused 0 "a""#,
            "a refused model while it serves requests",
        ),
        (
            "INFER w",
            r#"hello 0 {"version":"1","build":"2"}"#,
            "a greeting while it serves requests",
        ),
        ("INFER w", "busy 0 -1", "not a message"),
        ("INFER w", "", "not a message"),
        ("INFER w", "nonsense 0 1", "not a message"),
        (
            "EMBED w",
            r#"embedding 1 {"values":[1,2],"prompt_tokens":1}"#,
            "an answer of 2 numbers, where 1 are possible",
        ),
        (
            "EMBED w",
            r#"embedding 1 {"values":[],"prompt_tokens":1}"#,
            "an embedding of 0 numbers, not 1",
        ),
        (
            "EMBED w",
            r#"embedding 1 {"values":[1e999],"prompt_tokens":1}"#,
            "not a message",
        ),
        (
            "EMBED w",
            r#"embedding 1 {"values":[1],"prompt_tokens":9}"#,
            "prompt_tokens 9, which is not within 1 to 8",
        ),
        (
            "TOKENIZE w",
            "tokens 1 [1]",
            "1 is not a token of the model",
        ),
        (
            "TOKENIZE w",
            "tokens 1 [-1]",
            "-1 is not a token of the model",
        ),
    ];
    rows.extend(others.map(|(verb, message, reason)| (verb, message.to_string(), reason)));
    rows
}

#[test]
fn a_process_that_says_what_cannot_be_is_killed_for_it() {
    for (request, message, reason) in lies() {
        let home = Directory::new();
        let bridge = bridge_with(&home, &saying(&home, &message), &[]);
        let mut client = bridge.connect();
        client.ask(request);
        let said = client.expect_error("model_died");
        let said = said.strip_prefix("Model process died: killed for an invalid message: ");
        let said = said.unwrap_or_else(|| client.fail(&message)).to_string();
        // How long it was waited differs.
        let timeless = match said.split_once(" after ") {
            Some((what, _)) => format!("{what} after N ms"),
            None => said,
        };
        if reason == "not a message" {
            let start: String = message.chars().take(40).collect();
            let more = if start == message { "" } else { "..." };
            assert_eq!(timeless, format!("not a message: '{start}{more}'"));
        } else {
            assert_eq!(timeless, reason, "{message}");
        }
        client.exchange("PING", &ok("pong"));
        client.ask("METRICS");
        let metrics = client.receive();
        let deaths = metrics.split("model_deaths_total{").nth(1);
        let deaths = deaths.and_then(|line| line.split(r"\n").next());
        assert!(
            deaths.is_some_and(|line| line.ends_with("} 1")),
            "{metrics}"
        );
    }
}

#[test]
fn an_answer_is_taken_once() {
    let home = Directory::new();
    let answer = done(("", ""));
    let program = saying(&home, &format!("{answer}\n{answer}"));
    let bridge = bridge_with(&home, &program, &[]);
    let mut client = bridge.connect();
    client.exchange("INFER w", &completed("a"));
    wait_until("the process is killed for the second", || {
        bridge
            .errors()
            .contains("killed for an invalid message: an answer to 1, which was not asked")
    });
    // It does not answer this one either.
    client.exchange("PING", &ok("pong"));
}

#[test]
fn what_a_model_is_said_to_be_is_checked() {
    let rows = [
        (
            r#""context_size":8"#,
            r#""context_size":0"#,
            "context_size 0, which is not within 1 to 4096",
        ),
        (
            r#""context_size":8"#,
            r#""context_size":4097"#,
            "context_size 4097, which is not within 1 to 4096",
        ),
        (
            r#""embedding_size":1"#,
            r#""embedding_size":4294967295"#,
            "embedding_size 4294967295, which is not within 0 to 65536",
        ),
        (
            r#""vocabulary_size":1"#,
            r#""vocabulary_size":16777217"#,
            "vocabulary_size 16777217, which is not within 0 to 16777216",
        ),
        (
            r#""parameters":1"#,
            r#""parameters":-1"#,
            "not a message: 'ready 0 {\"description\":\"none\",\"architect...'",
        ),
        (
            "ready 0",
            "busy 0 1\nready 0",
            "busy while it loads a model",
        ),
        (
            "ready 0",
            "piece 1 \"a\"\nready 0",
            "a part of an answer while it loads a model",
        ),
        (
            "ready 0",
            "text 1 \"a\"\nready 0",
            "an answer while it loads a model",
        ),
    ];
    for (old, new, reason) in rows {
        let home = Directory::new();
        let program = stand_in_of(&home, |ready| ready.replacen(old, new, 1), "read -r end");
        let model = Tiny::mute().write(home.join("tiny.gguf"));
        let program = program.to_str().expect("test paths are UTF-8");
        let bridge = Bridge::start(&home, &["--model-program", program]);
        let mut client = bridge.connect();
        client.ask(&format!("LOAD {}", model.display()));
        let expected = format!(
            "Failed to load model: {}: killed for an invalid message: {reason}",
            model.display()
        );
        assert_eq!(client.expect_error("load_failed"), expected);
        client.exchange("PING", &ok("pong"));
    }
}

#[test]
fn a_step_that_is_announced_without_end_keeps_no_limit_from_being_kept() {
    let home = Directory::new();
    let bridge = bridge_with(
        &home,
        &saying(&home, "busy 0 18446744073709551615"),
        &["--request-timeout", "1"],
    );
    let mut client = bridge.connect();
    client.exchange("INFER w", &failure("timeout", "Not answered within 1 s"));
    client.exchange("PING", &ok("pong"));
}

#[test]
fn a_process_that_closes_its_socket_and_exits_is_reported_with_its_exit_status() {
    let home = Directory::new();
    let program = stand_in(&home, "read -r request; exec 0<&-; sleep 0.2; exit 17");
    let bridge = bridge_with(&home, &program, &[]);
    let mut client = bridge.connect();
    let reason = "Model process died: exit status 17";
    client.exchange("INFER w", &failure("model_died", reason));
}

#[test]
fn a_process_that_closes_its_socket_and_does_not_exit_is_killed() {
    let home = Directory::new();
    let program = stand_in(&home, "read -r request; exec 0<&-; sleep 600");
    let bridge = bridge_with(&home, &program, &[]);
    let mut client = bridge.connect();
    let reason = "Model process died: closed its connection to the bridge and did not exit";
    client.exchange("INFER w", &failure("model_died", reason));
    wait_until("it is gone", || {
        process::children(bridge.pid()).is_empty() && process::zombies(bridge.pid()).is_empty()
    });
}

#[test]
fn a_process_that_takes_nothing_more_is_killed() {
    let home = Directory::new();
    let text = "read -r request
        python3 -c 'import socket; socket.socket(fileno=0).shutdown(socket.SHUT_RD)'
        printf 'piece 1 \"a\"\\n' >&0; sleep 600";
    let bridge = bridge_with(&home, &stand_in(&home, text), &[]);
    let mut client = bridge.connect();
    client.ask("STREAM w");
    assert_eq!(client.piece(), "a");
    client.ask("INFER w");
    let reason = "Model process died: closed its connection to the bridge and did not exit";
    for _ in 0..2 {
        client.expect(&failure("model_died", reason));
    }
}

#[test]
fn the_death_of_a_process_is_seen_although_another_one_holds_its_socket_and_ends_with_it() {
    let home = Directory::new();
    let kept = home.join("kept");
    let text = format!(
        "read -r request; sh -c 'echo $$ >{0}; exec sleep 600' & while ! test -s {0}; do sleep 0.01; done; exit 5",
        kept.display()
    );
    let bridge = bridge_with(&home, &stand_in(&home, &text), &[]);
    let mut client = bridge.connect();
    let start = Instant::now();
    client.exchange(
        "INFER w",
        &failure("model_died", "Model process died: exit status 5"),
    );
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    let pid = std::fs::read_to_string(kept).expect("it is there");
    process::wait_for_end(pid.trim().parse().expect("it is a number"));
}
