//! The replies of the commands that generate text, taken apart and checked for their form.

use miniserde::{Deserialize, json};

use super::{Bridge, Client, Directory, Tiny, ok};

/// What stands behind the text of an answer, always and in this order.
const STATISTICS: [&str; 7] = [
    "finish_reason",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "prompt_ms",
    "completion_ms",
    "seed",
];

/// The answer of `STREAM`, `CHAT` or `GENERATE`.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The pieces that came before, if it was streamed.
    pub(crate) pieces: Vec<String>,
    /// The whole text.
    pub(crate) text: String,
    /// `stop`, `length` or `context`.
    pub(crate) finish_reason: String,
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: u64,
    /// How many of them were evaluated for an earlier prompt.
    pub(crate) cached_tokens: u64,
    /// Tokens of the text.
    pub(crate) completion_tokens: u64,
    /// The seed that was used.
    pub(crate) seed: u64,
}

#[derive(Deserialize)]
struct Partial {
    data: String,
}

#[derive(Deserialize)]
struct Done {
    data: String,
    finish_reason: String,
    prompt_tokens: u64,
    cached_tokens: u64,
    completion_tokens: u64,
    prompt_ms: f64,
    completion_ms: f64,
    seed: u64,
}

/// The JSON of a text, quotes included.
pub(crate) fn quoted(text: &str) -> String {
    json::to_string(text)
}

impl Client {
    /// Asks `GENERATE` for this object, which may have newlines, and takes the answer.
    pub(crate) fn generate(&mut self, object: &str) -> Answer {
        self.ask_netstring(&format!("GENERATE {object}"));
        self.answer()
    }

    /// Expects that `GENERATE` of this object is a `bad_request`, for this reason.
    pub(crate) fn expect_refusal(&mut self, object: &str, message: &str) {
        self.ask_netstring(&format!("GENERATE {object}"));
        let message = quoted(message);
        self.expect(&format!(
            r#"{{"status":"error","message":{message},"code":"bad_request"}}"#
        ));
    }

    /// Expects an error with this code next, and gives back what it says.
    pub(crate) fn expect_error(&mut self, code: &str) -> String {
        #[derive(Deserialize)]
        struct Failed {
            message: String,
        }
        let line = self.receive();
        let failed: Option<Failed> = json::from_str(&line).ok();
        let message = failed.map(|failed| failed.message).unwrap_or_default();
        let quoted = quoted(&message);
        if line != format!(r#"{{"status":"error","message":{quoted},"code":"{code}"}}"#) {
            self.fail(&format!("expected an error with the code {code}"));
        }
        message
    }

    /// The next piece of a stream.
    pub(crate) fn piece(&mut self) -> String {
        let line = self.receive();
        match partial(&line) {
            Some(piece) => piece,
            None => self.fail("expected a piece"),
        }
    }

    /// The next answer, and the pieces before it.
    pub(crate) fn answer(&mut self) -> Answer {
        let mut pieces = Vec::new();
        loop {
            let line = self.receive();
            if let Some(piece) = partial(&line) {
                pieces.push(piece);
                continue;
            }
            let Some(done) = done(&line) else {
                self.fail("expected an answer with all its statistics, in their order");
            };
            return Answer {
                pieces,
                text: done.data,
                finish_reason: done.finish_reason,
                prompt_tokens: done.prompt_tokens,
                cached_tokens: done.cached_tokens,
                completion_tokens: done.completion_tokens,
                seed: done.seed,
            };
        }
    }
}

/// The text of a line that gives a piece.
fn partial(line: &str) -> Option<String> {
    let Partial { data } = json::from_str(line).ok()?;
    let same = format!(
        r#"{{"status":"partial","message":"token","data":{}}}"#,
        quoted(&data)
    );
    (line == same && !data.is_empty()).then_some(data)
}

/// What a line says that gives the whole text.
fn done(line: &str) -> Option<Done> {
    let done: Done = json::from_str(line).ok()?;
    let start = format!(
        r#"{{"status":"ok","message":"Inference completed","data":{},"#,
        quoted(&done.data)
    );
    let rest = line.strip_prefix(&start)?.strip_suffix('}')?;
    // No value has a comma in it.
    let keys = rest.split(',').map(|field| field.split_once(':'));
    let keys: Option<Vec<&str>> = keys.map(|field| Some(field?.0.trim_matches('"'))).collect();
    let right = keys? == STATISTICS
        && done.prompt_ms >= 0.0
        && done.completion_ms >= 0.0
        && done.cached_tokens < done.prompt_tokens
        && ["stop", "length", "context"].contains(&done.finish_reason.as_str());
    right.then_some(done)
}

/// A bridge with a tiny carousel: after `a` comes `b`, and so on, round and round.
pub(crate) fn carousel(home: &Directory, options: &[&str]) -> Bridge {
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    Bridge::with_model(home, &model, options)
}

/// Expects of each object that it is refused for this reason, and that the connection goes on.
pub(crate) fn expect_refusals(objects: &[(&str, &str)]) {
    let home = Directory::new();
    let bridge = carousel(&home, &[]);
    let mut client = bridge.connect();
    for (object, message) in objects {
        client.expect_refusal(object, message);
    }
    client.exchange("PING", &ok("pong"));
}
