//! What is noted of a request: its verb, how long it took, how it ended, and what the model did for
//! it. Never a word of its text.

use std::fmt::Write;
use std::time::{Duration, Instant};

use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::{Answer, Done};
use llama_cpp_bridge::sys::peer::Peer;

/// Longest time that the model process is believed, in milliseconds: some 30 years. Of longer ones the
/// sums would soon be more than a [`Duration`] holds.
const LONGEST_MS: f64 = 1e12;

/// What is noted of a request.
pub struct Record {
    /// In upper case, or [`UNKNOWN`](crate::server::command::UNKNOWN).
    pub verb: &'static str,
    /// When it was taken up.
    taken: Instant,
    /// When its answer was there, and what kind of failure that was.
    answered: Option<(Instant, Option<Code>)>,
    /// What the model did for it.
    pub usage: Usage,
}

/// What the model did for a request.
#[derive(Default)]
pub enum Usage {
    /// Nothing that is counted.
    #[default]
    Nothing,
    /// Text.
    Generated(Generated),
    /// An embedding, of this many tokens.
    Embedded(u32),
}

/// The statistics of a text.
pub struct Generated {
    pub prompt_tokens: u32,
    /// Those of the prompt that were not evaluated again.
    pub cached_tokens: u32,
    pub completion_tokens: u32,
    /// Until the whole prompt was evaluated, without the time that it waited for a place.
    pub prompt: Duration,
    /// From then on.
    pub completion: Duration,
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq)]
pub enum Outcome {
    Ok,
    Error(Code),
    /// Nobody was there any more to be answered.
    Abandoned,
}

impl Record {
    /// The record of a request that is taken up now.
    pub fn new(verb: &'static str, now: Instant) -> Self {
        Self {
            verb,
            taken: now,
            answered: None,
            usage: Usage::Nothing,
        }
    }

    /// Notes what the model did.
    pub fn worked(&mut self, answer: &Answer) {
        self.usage = match answer {
            Answer::Generated(done) => Usage::Generated(Generated::of(done)),
            Answer::Embedding(embedding) => Usage::Embedded(embedding.prompt_tokens),
            Answer::Tokens(_) | Answer::Text(_) | Answer::State(_) => Usage::Nothing,
        };
    }

    /// Notes that the answer is there. The first one counts.
    pub fn answered<T>(&mut self, outcome: &Result<T, Failure>) {
        let code = outcome.as_ref().err().map(|failure| failure.code);
        self.answered.get_or_insert_with(|| (Instant::now(), code));
    }

    /// How it ended; abandoned if its answer is not there.
    pub fn outcome(&self) -> Outcome {
        match self.answered {
            None => Outcome::Abandoned,
            Some((_, None)) => Outcome::Ok,
            Some((_, Some(code))) => Outcome::Error(code),
        }
    }

    /// From when it was taken up until its answer was there.
    pub fn duration(&self) -> Option<Duration> {
        self.answered.map(|(at, _)| at - self.taken)
    }

    /// From when it was taken up until the model had its first token, of a text that has one. It is
    /// chosen in the moment in which the prompt is evaluated, from which `completion` counts.
    pub fn first_token(&self) -> Option<Duration> {
        match &self.usage {
            Usage::Generated(done) if done.completion_tokens > 0 => {
                Some(self.duration()?.saturating_sub(done.completion))
            }
            _ => None,
        }
    }

    /// The line of the log.
    pub fn line(&self, peer: Peer) -> String {
        let mut line = format!("{} uid={}", self.verb, peer.uid);
        if let Some(pid) = peer.pid {
            let _ = write!(line, " pid={pid}");
        }
        let _ = match self.outcome() {
            Outcome::Ok => write!(line, " code=ok"),
            Outcome::Error(code) => write!(line, " code={}", code.name()),
            Outcome::Abandoned => write!(line, " code=abandoned"),
        };
        let _ = match &self.usage {
            Usage::Nothing => Ok(()),
            Usage::Generated(done) => write!(
                line,
                " prompt_tokens={} cached_tokens={} completion_tokens={}",
                done.prompt_tokens, done.cached_tokens, done.completion_tokens
            ),
            Usage::Embedded(tokens) => write!(line, " prompt_tokens={tokens}"),
        };
        if let Some(time) = self.first_token() {
            let _ = write!(line, " first_token_ms={}", milliseconds(time));
        }
        let until = self.answered.map_or_else(Instant::now, |(at, _)| at);
        let _ = write!(line, " ms={}", milliseconds(until - self.taken));
        line
    }
}

impl Generated {
    fn of(done: &Done) -> Self {
        let time = |milliseconds: f64| {
            Duration::from_secs_f64(milliseconds.clamp(0.0, LONGEST_MS) / 1000.0)
        };
        Self {
            prompt_tokens: done.prompt_tokens,
            cached_tokens: done.cached_tokens,
            completion_tokens: done.completion_tokens,
            prompt: time(done.prompt_ms),
            completion: time(done.completion_ms),
        }
    }
}

/// To the microsecond, as in replies.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
