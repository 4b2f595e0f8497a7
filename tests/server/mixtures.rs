//! Mixtures of requests in flight, made by chance, against a small model of the protocol.

use std::path::PathBuf;

use crate::harness::{Bridge, Directory, Tiny, completed, failure, loaded, ok, quoted};

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
                    let what = format!("seed {seed}, reply {number}, {}", quoted(&text));
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
