//! Requests in flight: sent without waiting for replies, worked on together, answered in order.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::harness::{
    Answer, Bridge, Client, Directory, Tiny, completed, failure, loaded, ok, process, quoted,
    wait_until,
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
fn a_request_that_takes_too_long_leaves_the_others_alone() {
    let home = Directory::new();
    let options = ["-n", "-1", "-c", "0", "--request-timeout", "2"];
    let bridge = bridge_with(&home, &Tiny::endless(), &options);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    client.send("INFER !\nINFER a\nINFER !\nGENERATE {\"prompt\":\"a\",\"max_tokens\":3}\n");
    client.expect(&completed(""));
    client.expect(&failure("timeout", "Not answered within 2 seconds"));
    client.expect(&completed(""));
    assert_eq!(client.answer().text, "bcd");
    assert_eq!(bridge.model_process(), child);
}

/// What the protocol says of a mixture of requests, and the bytes that ask for them.
struct Script {
    state: u64,
    requests: Vec<u8>,
    replies: Vec<Reply>,
    models: [PathBuf; 2],
    loaded: Option<usize>,
}

enum Reply {
    Line(String),
    /// An error with this code.
    Error(&'static str),
    /// An answer with this text, streamed or not.
    Text(String, bool),
}

impl Script {
    fn random(&mut self, below: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % below
    }

    /// The text after this letter by the model that is loaded.
    fn text(&self, letter: u8) -> Option<String> {
        let whole = "abcdefghijklmnopqrstuvwxyz";
        let at = usize::from(letter - b'a') + 1;
        match self.loaded? {
            0 => Some(whole[at..].chars().take(8).collect()),
            _ => Some(whole.chars().cycle().skip(at).take(8).collect()),
        }
    }

    fn ask(&mut self, request: &str) {
        let framed = match self.random(3) {
            0 => format!("{}:{request},", request.len()),
            1 => format!("{request}\r\n"),
            _ => format!("{request}\n"),
        };
        self.requests.extend_from_slice(framed.as_bytes());
    }

    fn add(&mut self) {
        let letter = b'a' + self.random(26) as u8;
        let shown = char::from(letter);
        let text = self.text(letter);
        let no_model = || Reply::Line(failure("no_model", "No model loaded"));
        match self.random(16) {
            0 => {
                let which = self.random(2) as usize;
                self.ask(&format!("LOAD {}", self.models[which].display()));
                self.loaded = Some(which);
                self.replies.push(Reply::Line(loaded().to_string()));
            }
            1 => {
                self.ask("LOAD /nonexistent");
                self.replies.push(Reply::Error("load_failed"));
            }
            2 if self.random(3) == 0 => {
                self.ask("FREE");
                self.loaded = None;
                self.replies.push(Reply::Line(ok("Resources freed")));
            }
            3 => {
                self.ask("status");
                let told = match self.loaded {
                    Some(which) => format!("Model loaded: {}", self.models[which].display()),
                    None => "No model loaded".to_string(),
                };
                self.replies.push(Reply::Line(ok(&told)));
            }
            4 | 5 => {
                self.ask(&format!("STREAM {shown}"));
                let reply = text.map_or_else(no_model, |text| Reply::Text(text, true));
                self.replies.push(reply);
            }
            6 => {
                self.ask(&format!(
                    r#"GENERATE {{"prompt":"{shown}","stop":["{shown}"]}}"#
                ));
                let reply = text.map_or_else(no_model, |text| Reply::Text(text, false));
                self.replies.push(reply);
            }
            7 => {
                self.ask(&format!(r#"GENERATE {{"prompt":{shown}}}"#));
                self.replies.push(Reply::Error("bad_request"));
            }
            8 => {
                self.ask("NONSENSE");
                let told = failure("unknown_command", "Unknown command: NONSENSE");
                self.replies.push(Reply::Line(told));
            }
            9 => {
                self.ask(&format!("TOKENIZE {shown}"));
                let id = usize::from(letter) + 3;
                let line = format!(
                    r#"{{"status":"ok","message":"Tokenization completed","tokens":[{id}]}}"#
                );
                let reply = text.map_or_else(no_model, |_| Reply::Line(line));
                self.replies.push(reply);
            }
            10 => {
                self.ask("PING");
                self.replies.push(Reply::Line(ok("pong")));
            }
            _ => {
                self.ask(&format!("INFER {shown}"));
                let reply = text.map_or_else(no_model, |text| Reply::Line(completed(&text)));
                self.replies.push(reply);
            }
        }
    }
}

#[test]
fn replies_have_the_order_of_the_requests_under_every_mix() {
    let home = Directory::new();
    let models = [
        Tiny::alphabet().write(home.join("alphabet.gguf")),
        Tiny::carousel().write(home.join("carousel.gguf")),
    ];
    for seed in 1..=6_u64 {
        let options = [
            "--temp",
            "0",
            "-n",
            "8",
            "--parallel",
            ["1", "3", "8"][seed as usize % 3],
        ];
        let bridge = Bridge::start(&home, &options);
        let mut script = Script {
            state: seed * 0x9e37_79b9_7f4a_7c15,
            requests: Vec::new(),
            replies: Vec::new(),
            models: models.clone(),
            loaded: None,
        };
        for _ in 0..150 {
            script.add();
        }
        let mut client = bridge.connect();
        client.send(&script.requests);
        client.half_close();
        for (number, reply) in script.replies.into_iter().enumerate() {
            match reply {
                Reply::Line(line) => client.expect(&line),
                Reply::Error(code) => {
                    client.expect_error(code);
                }
                Reply::Text(text, streamed) => {
                    let answer = client.answer();
                    let mut what = String::new();
                    let _ = write!(what, "seed {seed}, reply {number}, {}", quoted(&text));
                    assert_eq!(answer.text, text, "{what}");
                    assert_eq!(
                        !answer.pieces.is_empty(),
                        streamed && !text.is_empty(),
                        "{what}"
                    );
                    assert!(
                        answer.pieces.is_empty() || answer.pieces.concat() == text,
                        "{what}"
                    );
                }
            }
        }
        client.expect_end();
    }
}
