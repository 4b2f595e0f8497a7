//! What is counted from the start of the bridge to its end, for METRICS and `--metrics-file`: here
//! the numbers, in [`text`] how they are written, in [`file`] the file.

pub mod file;
mod histogram;
mod processes;
mod text;

use std::time::{Duration, Instant, SystemTime};

use crate::server::request_log::{Outcome, Record, Usage};
use crate::slot::Slot;
use histogram::Histogram;
use llama_cpp_bridge::shared::failure::Code;

/// The counters of one bridge, and the few things that are only known while they are true.
pub struct Metrics {
    /// Distinguishes the bridges of a host.
    socket: String,
    started: SystemTime,
    /// A row for each verb, in the order of HELP, and one for everything else.
    verbs: Vec<Verb>,
    tokens: Tokens,
    /// Spent on prompts, and on texts after them.
    prompt_time: Duration,
    completion_time: Duration,
    first_token: Histogram,
    /// Clients that were served, and those that were not because of who they are.
    pub served: u64,
    pub refused: u64,
    queue: Queue,
    /// Whether a client is served now.
    pub connected: bool,
    /// Its requests that are, or soon will be, with the model.
    pub in_flight: usize,
}

/// What is counted of a verb.
struct Verb {
    name: &'static str,
    ok: u64,
    abandoned: u64,
    /// By [`Code::ALL`].
    errors: [u64; Code::ALL.len()],
    /// Of those that were answered.
    durations: Histogram,
}

/// Tokens, by what was done with them.
#[derive(Default)]
struct Tokens {
    /// Of prompts.
    prompt: u64,
    /// Those of the prompts that were not evaluated again.
    cached: u64,
    generated: u64,
    embedded: u64,
}

/// The queue of the socket. It can be seen that somebody is in it, not how many, nor since when.
#[derive(Default)]
struct Queue {
    /// How long somebody was in it, up to `since`.
    waited: Duration,
    /// Since when somebody is in it.
    since: Option<Instant>,
}

impl Verb {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            ok: 0,
            abandoned: 0,
            errors: [0; Code::ALL.len()],
            durations: Histogram::default(),
        }
    }
}

impl Metrics {
    /// Nothing has happened yet on the socket of this name, and none of these verbs was sent.
    pub fn new(socket: String, verbs: impl IntoIterator<Item = &'static str>) -> Self {
        Self {
            socket,
            started: SystemTime::now(),
            verbs: verbs.into_iter().map(Verb::new).collect(),
            tokens: Tokens::default(),
            prompt_time: Duration::ZERO,
            completion_time: Duration::ZERO,
            first_token: Histogram::default(),
            served: 0,
            refused: 0,
            queue: Queue::default(),
            connected: false,
            in_flight: 0,
        }
    }

    /// Counts a request that has ended.
    pub fn ended(&mut self, record: &Record) {
        let Some(verb) = self.verbs.iter_mut().find(|verb| verb.name == record.verb) else {
            return;
        };
        match record.outcome() {
            Outcome::Ok => verb.ok += 1,
            Outcome::Abandoned => verb.abandoned += 1,
            Outcome::Error(code) => verb.errors[code as usize] += 1,
        }
        if let Some(duration) = record.duration() {
            verb.durations.observe(duration);
        }
        if let Some(time) = record.first_token() {
            self.first_token.observe(time);
        }
        match &record.usage {
            Usage::Nothing => (),
            Usage::Generated(done) => {
                self.tokens.prompt += u64::from(done.prompt_tokens);
                self.tokens.cached += u64::from(done.cached_tokens);
                self.tokens.generated += u64::from(done.completion_tokens);
                self.prompt_time += done.prompt;
                self.completion_time += done.completion;
            }
            Usage::Embedded(tokens) => self.tokens.embedded += u64::from(*tokens),
        }
    }

    /// Notes that a client was taken from the queue of the socket. Whether another one is still
    /// there is noted next by [`somebody_waits`](Self::somebody_waits).
    pub fn queue_moved(&mut self, now: Instant) {
        if let Some(since) = self.queue.since.take() {
            self.queue.waited += now - since;
        }
    }

    /// Notes that somebody is in the queue of the socket.
    pub fn somebody_waits(&mut self, now: Instant) {
        self.queue.since.get_or_insert(now);
    }

    /// Whether it is known that somebody is in the queue, so that nobody need look.
    pub fn knows_who_waits(&self) -> bool {
        self.queue.since.is_some()
    }

    /// All of it, in the text format of Prometheus.
    pub fn text(&self, slot: &Slot) -> String {
        text::of(self, slot)
    }
}
