//! Requests in flight: sent without waiting for replies, worked on together, answered in order.

use std::time::Duration;

use crate::harness::{
    Answer, Bridge, Client, Directory, Tiny, completed, failure, loaded, ok, process, wait_until,
};

/// Ticks of work after which a request is taken to be well under way.
const UNDER_WAY: u64 = 10;

/// Requests that a bridge works on together by default.
const TOGETHER: usize = 8;

/// A model whose text is decided by the seed alone: a to d, one as likely as the other, and in one
/// of nine places the end.
fn dice() -> Tiny {
    let model = "abcd"
        .bytes()
        .fold(Tiny::mute(), |model, byte| model.choice(byte, "abcdabcd"));
    model.weigh(b'a', 0, 0.0)
}

fn bridge_with(home: &Directory, tiny: &Tiny, options: &[&str]) -> Bridge {
    let model = tiny.write(home.join("tiny.gguf"));
    Bridge::with_model(home, &model, options)
}

/// An object for GENERATE whose text differs from seed to seed.
fn throw(seed: usize, more: &str) -> String {
    format!(
        r#"{{"prompt":"a{}","seed":{seed},"temperature":1.0,"max_tokens":{}{more}}}"#,
        "bcd".repeat(seed % 5),
        5 + seed % 40
    )
}

fn texts(answers: &[Answer]) -> Vec<&str> {
    answers.iter().map(|answer| answer.text.as_str()).collect()
}

#[test]
fn a_bridge_that_works_on_one_at_a_time_gives_the_same_texts() {
    let home = Directory::new();
    let bridge = bridge_with(&home, &dice(), &["--parallel", "1"]);
    let mut client = bridge.connect();
    let one_by_one: Vec<Answer> = (0..10).map(|s| client.generate(&throw(s, ""))).collect();
    for seed in 0..10 {
        client.ask(&format!("GENERATE {}", throw(seed, "")));
    }
    let piped: Vec<Answer> = (0..10).map(|_| client.answer()).collect();
    assert_eq!(texts(&piped), texts(&one_by_one));
}

#[test]
fn streams_in_flight_come_one_after_the_other_each_whole() {
    let home = Directory::new();
    let bridge = bridge_with(&home, &Tiny::alphabet(), &[]);
    let mut client = bridge.connect();
    client.send("STREAM w\nSTREAM u\nINFER x\nSTREAM v\nPING\n");
    for expected in [["x", "y", "z"].as_slice(), &["v", "w", "x", "y", "z"]] {
        let answer = client.answer();
        assert_eq!(answer.pieces, expected);
        assert_eq!(answer.text, expected.concat());
    }
    client.expect(&completed("yz"));
    assert_eq!(client.answer().pieces, ["w", "x", "y", "z"]);
    client.expect(&ok("pong"));
}

#[test]
fn what_befalls_one_does_not_touch_the_others() {
    let home = Directory::new();
    let bridge = bridge_with(&home, &Tiny::alphabet().poison(b'!'), &["-c", "64"]);
    let mut client = bridge.connect();
    let long = "a".repeat(100);
    client.send("INFER t\n");
    client.send("INFER !\n");
    client.send(format!("INFER {long}\n"));
    client.send("GENERATE {\"prompt\":\"t\",\"stop\":\"w\"}\n");
    client.send("GENERATE {\"prompt\":\"t\",\"grammar\":\"root ::= \\\"uvw\\\"\"}\n");
    client.send("GENERATE {\"prompt\":\"t\",\"grammar\":\"root ::= ???\"}\n");
    client.send("GENERATE {\"prompt\":\"t\",\"nonsense\":1}\n");
    client.send("INFER u\n");
    client.expect(&completed("uvwxyz"));
    client.expect_error("internal");
    client.expect_error("context_exceeded");
    assert_eq!(client.answer().text, "uv");
    assert_eq!(client.answer().text, "uvw");
    client.expect_error("bad_request");
    client.expect_error("bad_request");
    client.expect(&completed("vwxyz"));
}

#[test]
fn a_load_waits_for_all_before_it_and_those_behind_wait_for_it() {
    let home = Directory::new();
    let bridge = bridge_with(&home, &Tiny::alphabet(), &[]);
    let other = Tiny::carousel().write(home.join("other.gguf"));
    let mut client = bridge.connect();
    client.send("INFER t\nINFER u\n");
    client.ask(&format!("LOAD {}", other.display()));
    client.send("INFER y\nFREE\nINFER y\nSTATUS\n");
    client.expect(&completed("uvwxyz"));
    client.expect(&completed("vwxyz"));
    client.expect(loaded());
    let text: String = (0..256_u32)
        .map(|step| char::from(b'a' + ((25 + step) % 26) as u8))
        .collect();
    client.expect(&completed(&text));
    client.expect(&ok("Resources freed"));
    client.expect(&failure("no_model", "No model loaded"));
    client.expect(&ok("No model loaded"));
}

#[test]
fn quit_waits_for_all_before_it() {
    let home = Directory::new();
    let mut bridge = bridge_with(&home, &Tiny::alphabet(), &[]);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    client.send("INFER t\nINFER u\nQUIT\nPING\n");
    client.expect(&completed("uvwxyz"));
    client.expect(&completed("vwxyz"));
    client.expect(&ok("Goodbye"));
    bridge.expect_stop(&[child]);
    client.expect_end();
}

/// A bridge that generates without end for as many requests as it takes together, and their client.
fn all_places_taken(home: &Directory) -> (Bridge, u32, Client) {
    let options = ["-n", "-1", "-c", "0"];
    let bridge = bridge_with(home, &Tiny::endless(), &options);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    client.send("INFER a\n".repeat(TOGETHER));
    process::wait_for_work(child, UNDER_WAY);
    (bridge, child, client)
}

#[test]
fn a_client_that_leaves_with_all_places_taken_leaves_a_free_model() {
    let home = Directory::new();
    let (bridge, child, client) = all_places_taken(&home);
    client.vanish();
    let mut next = bridge.connect();
    next.send("INFER !\n".repeat(20));
    for _ in 0..20 {
        next.expect(&completed(""));
    }
    assert_eq!(bridge.model_process(), child);
    bridge.wait_until_idle();
    wait_until("the model process rests", || process::sleeps(child));
}

#[test]
fn a_model_process_killed_with_all_places_taken_is_told_to_each_and_comes_back() {
    let home = Directory::new();
    let (_bridge, child, mut client) = all_places_taken(&home);
    client.send("INFER !\nPING\n");
    process::signal(child, "KILL");
    for _ in 0..TOGETHER {
        client.expect(&failure(
            "model_died",
            "Model process died: killed by SIGKILL",
        ));
    }
    client.expect(&completed(""));
    client.expect(&ok("pong"));
}

#[test]
fn a_stream_that_nobody_reads_does_not_hold_the_model() {
    let home = Directory::new();
    let options = ["-n", "12000", "-c", "0"];
    let bridge = bridge_with(&home, &Tiny::carousel().context(20_000), &options);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    client.send("STREAM a\n");
    process::wait_for_work(child, UNDER_WAY);
    crate::harness::wait_within(
        Duration::from_secs(50),
        "the model has done its work",
        || process::sleeps(child) && process::sleeps(bridge.pid()),
    );
    let answer = client.answer();
    assert_eq!(answer.completion_tokens, 12_000);
    assert_eq!(answer.pieces.concat(), answer.text);
}

#[test]
fn a_hundred_thousand_requests_in_flight_take_no_memory() {
    let home = Directory::new();
    let bridge = bridge_with(&home, &Tiny::alphabet(), &[]);
    let mut client = bridge.connect();
    client.exchange("INFER y", &completed("z"));
    let before = process::peak_memory(bridge.pid());
    let count = 100_000;
    std::thread::scope(|scope| {
        let mut sender = client.second_handle();
        scope.spawn(move || {
            use std::io::Write;
            let all = "TOKENIZE a\nPING\n".repeat(count / 2);
            sender.write_all(all.as_bytes()).expect("all can be sent");
        });
        let tokens = r#"{"status":"ok","message":"Tokenization completed","tokens":[100]}"#;
        for _ in 0..count / 2 {
            client.expect(tokens);
            client.expect(&ok("pong"));
        }
    });
    let more = process::peak_memory(bridge.pid()) - before;
    assert!(more < 4 << 20, "{more} bytes more");
}

#[test]
fn long_requests_one_behind_the_other_take_no_memory_once_they_are_answered() {
    let home = Directory::new();
    let bridge = bridge_with(&home, &Tiny::alphabet(), &[]);
    let mut client = bridge.connect();
    client.exchange("INFER y", &completed("z"));
    let before = process::peak_memory(bridge.pid());
    let count = 150;
    std::thread::scope(|scope| {
        let mut sender = client.second_handle();
        scope.spawn(move || {
            use std::io::Write;
            let request = format!("DETOKENIZE {}260\n", "100 ".repeat(250_000));
            for _ in 0..count {
                sender
                    .write_all(request.as_bytes())
                    .expect("all can be sent");
            }
        });
        let message = "260 is not a token of the model; its tokens are 0 to 259";
        for _ in 0..count {
            client.expect(&failure("bad_request", message));
        }
    });
    // All of them together are 150 MB, those in flight 8 MB.
    let more = process::peak_memory(bridge.pid()) - before;
    assert!(more < 48 << 20, "{more} bytes more");
}

#[test]
fn large_requests_and_large_answers_that_cross_do_not_wait_for_each_other() {
    let home = Directory::new();
    let bridge = bridge_with(&home, &Tiny::alphabet(), &[]);
    let mut client = bridge.connect();
    // More than the sockets between the processes hold, in both directions at once.
    let count = 250_000;
    let request = format!("DETOKENIZE{}\n", " 100".repeat(count));
    let text = "a".repeat(count);
    let reply =
        format!(r#"{{"status":"ok","message":"Detokenization completed","data":"{text}"}}"#);
    std::thread::scope(|scope| {
        let mut sender = client.second_handle();
        scope.spawn(move || {
            use std::io::Write;
            let all = request.repeat(2 * TOGETHER);
            sender.write_all(all.as_bytes()).expect("all can be sent");
        });
        for _ in 0..2 * TOGETHER {
            client.expect(&reply);
        }
    });
}

#[test]
fn a_request_that_takes_too_long_leaves_the_others_alone() {
    let home = Directory::new();
    let options = ["-n", "-1", "-c", "0", "--request-timeout", "2"];
    let bridge = bridge_with(&home, &Tiny::endless(), &options);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    client.send("INFER !\nINFER a\nINFER !\nGENERATE {\"prompt\":\"a\",\"max_tokens\":3}\n");
    client.expect(&completed(""));
    client.expect(&failure("timeout", "Not answered within 2 s"));
    client.expect(&completed(""));
    assert_eq!(client.answer().text, "bcd");
    assert_eq!(bridge.model_process(), child);
}
