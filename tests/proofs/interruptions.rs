//! Signals to both processes, and the end of idle time, at random moments of requests: each is answered, or
//! its connection closed, and none hangs.

use std::thread;
use std::time::{Duration, Instant};

use super::text;
use crate::harness::{Bridge, Client, Directory, Random, Tiny, completed, ok, process, quoted};

/// How requests are answered whose model process ends: in them, when it is loaded for them, after that; and
/// whose bridge does.
const LOST: [&str; 4] = ["model_died", "load_failed", "no_model", "internal"];

/// How many tokens an answer has.
const TOKENS: usize = 40;

/// Requests that are sent together, each for the text after one letter.
struct Requests {
    client: Client,
    /// The letters whose answers are still to come.
    letters: Vec<u8>,
    /// The text of the pieces of the first of them that have come.
    pieces: String,
    /// The codes of those that were lost.
    errors: Vec<&'static str>,
}

impl Requests {
    fn send(bridge: &Bridge, random: &mut Random, count: usize) -> Requests {
        let mut client = bridge.connect();
        let letters: Vec<u8> = (0..count).map(|_| b'a' + random.below(26) as u8).collect();
        for letter in &letters {
            let verb = ["INFER", "STREAM"][random.below(2)];
            client.ask(&format!("{verb} {}", char::from(*letter)));
        }
        Requests {
            client,
            letters,
            pieces: String::new(),
            errors: Vec::new(),
        }
    }

    /// Takes the next line; gives back whether there was one.
    fn line(&mut self) -> bool {
        let Some(line) = self.client.receive_or_end() else {
            return false;
        };
        let text = text(self.letters[0], TOKENS);
        let start = r#"{"status":"partial","message":"token","data":""#;
        if let Some(piece) = line.strip_prefix(start) {
            self.pieces.push_str(piece.trim_end_matches("\"}"));
            if !text.starts_with(&self.pieces) {
                self.client.fail("another text was expected");
            }
            return true;
        }
        let answer = completed(&text);
        if !line.starts_with(answer.trim_end_matches('}')) {
            let code = LOST
                .iter()
                .find(|code| line.ends_with(&format!(r#","code":"{code}"}}"#)));
            let Some(code) = code else {
                let wanted = format!("expected an answer of {}", quoted(&text));
                self.client.fail(&wanted);
            };
            self.errors.push(code);
        }
        self.letters.remove(0);
        self.pieces.clear();
        true
    }

    /// Takes so many lines, or fewer if the connection ends.
    fn lines(&mut self, count: usize) {
        for _ in 0..count {
            if self.letters.is_empty() || !self.line() {
                return;
            }
        }
    }

    /// Takes all that is left, which has to come.
    fn rest(&mut self) {
        while !self.letters.is_empty() {
            if !self.line() {
                self.client.fail("the bridge closed the connection");
            }
        }
    }
}

/// A bridge with a model whose texts have no end.
fn carousel(home: &Directory, options: &[&str]) -> Bridge {
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    Bridge::with_model(home, &model, &[&["--max-tokens", "40"], options].concat())
}

#[test]
fn a_model_process_may_be_killed_or_stopped_at_any_moment() {
    let home = Directory::new();
    let bridge = carousel(&home, &[]);
    let mut random = Random::new(1);
    let load = format!("LOAD {}", home.join("tiny.gguf").display());
    let mut loaded = true;
    for round in 0..60 {
        if !loaded {
            bridge.connect().exchange(&load, crate::harness::loaded());
        }
        let signal = ["KILL", "TERM", "STOP"][round % 3];
        let mut requests = Requests::send(&bridge, &mut random, 12);
        // Until then nothing is read, or some pieces and replies.
        requests.lines([0, random.below(60), random.below(300)][random.below(3)]);
        let children = process::children(bridge.pid());
        for child in &children {
            process::signal(*child, signal);
        }
        if signal == "STOP" {
            bridge.wait_until_idle();
            for child in &children {
                process::signal(*child, "CONT");
            }
        }
        requests.rest();
        if signal != "STOP" {
            // A request to one that is about to end shares its end.
            for child in &children {
                process::wait_for_end(*child);
            }
        }
        let errors = &requests.errors;
        assert!(!errors.contains(&"internal"), "{round}: {errors:?}");
        loaded = !errors.contains(&"load_failed");
        // Of so many it works on at a time.
        let most = if signal == "STOP" { 0 } else { 8 };
        assert!(errors.len() <= most || !loaded, "{round}: {errors:?}");
    }
    let mut client = bridge.connect();
    client.exchange("PING", &ok("pong"));
}

#[test]
fn a_bridge_may_be_stopped_or_ended_at_any_moment() {
    let mut random = Random::new(2);
    for round in 0..16 {
        let home = Directory::new();
        let mut bridge = carousel(&home, &[]);
        let child = bridge.model_process();
        let mut requests = Requests::send(&bridge, &mut random, 12);
        requests.lines([0, random.below(60), random.below(300)][random.below(3)]);
        process::signal(bridge.pid(), "STOP");
        process::signal(bridge.pid(), "CONT");
        requests.lines(random.below(60));
        let signal = ["HUP", "TERM", "INT", "USR1"][round % 4];
        process::signal(bridge.pid(), signal);
        // What was sent already is whole, and then it ends.
        while !requests.letters.is_empty() && requests.line() {}
        let mut errors = requests.errors.iter();
        assert!(errors.all(|code| *code == "internal"), "{signal}");
        if signal == "USR1" {
            // One that the manual does not name does what it does to any program.
            assert_eq!(bridge.wait().code(), None);
            process::wait_for_end(child);
            let next = Bridge::start(&home, &[]);
            next.connect().exchange("PING", &ok("pong"));
        } else {
            bridge.expect_stop(&[child]);
        }
    }
}

/// How many bridges are idle beside each other.
const BESIDE: u64 = 32;

/// Runs this for each of the bridges at the same time.
fn beside(proof: impl Fn(u64) + Sync) {
    thread::scope(|scope| {
        for number in 0..BESIDE {
            let proof = &proof;
            scope.spawn(move || proof(number));
        }
    });
}

/// A moment near that at which a second is over, from `start` on: some milliseconds before or after it.
fn near_a_second(start: Instant, random: &mut Random) -> Duration {
    let moment = Duration::from_micros(997_000 + random.below(14_000) as u64);
    moment.saturating_sub(start.elapsed())
}

#[test]
fn a_request_at_the_moment_at_which_the_model_is_unloaded_is_answered() {
    beside(|number| {
        let home = Directory::new();
        let bridge = carousel(&home, &["--idle-unload", "1"]);
        let mut random = Random::new(100 + number);
        let mut client = bridge.connect();
        for _ in 0..7 {
            client.exchange("INFER w", &completed(&text(b'w', TOKENS)));
            let answered = Instant::now();
            client.expect_silence(near_a_second(answered, &mut random));
        }
        client.exchange("PING", &ok("pong"));
    });
}

#[test]
fn a_client_at_the_moment_at_which_the_bridge_exits_is_served_or_let_go() {
    beside(|number| {
        let home = Directory::new();
        let mut random = Random::new(200 + number);
        for _ in 0..4 {
            let mut bridge = Bridge::start(&home, &["--exit-idle", "1"]);
            let mut first = bridge.connect();
            first.exchange("PING", &ok("pong"));
            first.vanish();
            let left = Instant::now();
            // The passing of time is what is tested.
            thread::sleep(near_a_second(left, &mut random));
            let reply = Client::try_connect(&home.socket()).ok();
            let reply = reply.and_then(|mut client| {
                client.try_ask("PING");
                client.receive_or_end()
            });
            assert!(reply.is_none() || reply == Some(ok("pong")), "{reply:?}");
            assert_eq!(bridge.wait().code(), Some(0));
            bridge.expect_stop(&[]);
        }
    });
}
