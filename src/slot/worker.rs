//! The process of the loaded model at work: which requests it has, when it was last heard, and
//! when it has to be ended. Nothing here waits.

use std::time::{Duration, Instant};

use super::process::ModelProcess;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::{Answer, FromModel, ToModel, Work};
use llama_cpp_bridge::sys::poll::PollFd;

/// How long a cancelled request may go on behind the step that was announced, before the process
/// is ended instead. A step of more than a tenth of a second is announced, so one that says nothing
/// for so long is stuck.
const CANCEL_PATIENCE: Duration = Duration::from_secs(2);

/// What is heard of a request.
#[derive(Debug)]
pub enum Heard {
    /// The next piece of its text.
    Piece(u64, String),
    /// The last that is said of it.
    Answer(u64, Result<Answer, Failure>),
}

/// The process of a loaded model.
pub struct Worker {
    process: ModelProcess,
    /// The requests that it works on.
    live: Vec<u64>,
    /// Requests that it was told to give up and has not yet.
    cancelled: Vec<u64>,
    /// When a request was last given up.
    cancelled_at: Instant,
    /// When it last said something, or got something to do after it had nothing.
    heard: Instant,
    /// Until when it announced to be busy.
    busy_until: Instant,
    /// What its requests are told when it ends, if that was decided here.
    verdict: Option<Failure>,
}

impl Worker {
    /// Puts a process that has loaded its model to work.
    pub fn new(process: ModelProcess, now: Instant) -> Self {
        Self {
            process,
            live: Vec::new(),
            cancelled: Vec::new(),
            cancelled_at: now,
            heard: now,
            busy_until: now,
            verdict: None,
        }
    }

    /// What to wait for.
    pub fn polls(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.process.polls()
    }

    /// Whether a request that it is sent now is worked on at once. One that has still to give up
    /// an earlier one might have to be ended for that.
    pub fn takes_work(&self) -> bool {
        self.cancelled.is_empty() && !self.process.ending()
    }

    /// Whether it was told to end, or has ended, and is not buried yet.
    pub fn ending(&self) -> bool {
        self.process.ending()
    }

    /// Sends it a request.
    pub fn ask(&mut self, id: u64, work: Work, now: Instant) {
        if self.live.is_empty() {
            self.heard = now;
            self.process.forget_log();
        }
        self.live.push(id);
        self.process.send(ToModel::Work(id, work));
    }

    /// Has it give up a request.
    pub fn cancel(&mut self, id: u64, now: Instant) {
        let before = self.live.len();
        self.live.retain(|live| *live != id);
        if self.live.len() == before {
            return;
        }
        self.cancelled.push(id);
        self.cancelled_at = now;
        self.process.send(ToModel::Cancel(id));
    }

    /// Takes in what it says.
    pub fn pump(&mut self, now: Instant) -> Vec<Heard> {
        let mut heard = Vec::new();
        for message in self.process.pump() {
            self.heard = now;
            self.busy_until = now;
            match message {
                FromModel::Busy(milliseconds) => {
                    self.busy_until = now + Duration::from_millis(milliseconds);
                }
                FromModel::Piece(id, piece) if self.live.contains(&id) => {
                    heard.push(Heard::Piece(id, piece));
                }
                FromModel::Answer(id, answer) => {
                    self.cancelled.retain(|cancelled| *cancelled != id);
                    if self.live.contains(&id) {
                        self.live.retain(|live| *live != id);
                        heard.push(Heard::Answer(id, answer));
                    }
                }
                _ => (),
            }
        }
        heard
    }

    /// Ends it if it is stuck, or if ending it is quicker than waiting for it to give up what was
    /// cancelled: that is so if somebody waits for it (`wanted`) and it takes less time to load
    /// the model again (`reload`) than it will be busy. `stall` is how long it may say nothing,
    /// beyond the step that it announced, while it has requests.
    pub fn check(&mut self, now: Instant, wanted: bool, reload: Duration, stall: Duration) {
        if self.process.ending() {
            return;
        }
        if !self.live.is_empty() && now >= self.silence_ends(stall) {
            let message = format!(
                "The model process gave no sign of life for {} s",
                stall.as_secs()
            );
            self.end(Some(Failure::new(Code::Timeout, message)));
        } else if !self.cancelled.is_empty() {
            let busy = self.busy_until.saturating_duration_since(now);
            let quicker = wanted && self.live.is_empty() && busy > reload;
            if quicker || now >= self.patience_ends() {
                self.end(None);
            }
        }
    }

    /// Since when it has had nothing to do; `None` while it has.
    pub fn idle_since(&self) -> Option<Instant> {
        let idle = self.live.is_empty() && self.cancelled.is_empty() && !self.process.ending();
        idle.then_some(self.heard)
    }

    /// When [`check`](Self::check) has to be called again at the latest.
    pub fn deadline(&self, stall: Duration) -> Option<Instant> {
        if self.process.ending() {
            return None;
        }
        let stall = (!self.live.is_empty()).then(|| self.silence_ends(stall));
        let cancel = (!self.cancelled.is_empty()).then(|| self.patience_ends());
        stall.into_iter().chain(cancel).min()
    }

    /// Until when it may say nothing: what it announced does not count as silence.
    fn silence_ends(&self, stall: Duration) -> Instant {
        self.busy_until.max(self.heard) + stall
    }

    fn patience_ends(&self) -> Instant {
        self.busy_until.max(self.cancelled_at) + CANCEL_PATIENCE
    }

    fn end(&mut self, verdict: Option<Failure>) {
        self.verdict = verdict;
        self.process.end();
    }

    /// Once the process is gone: what it died of, the requests that it had, and what they are to
    /// be told.
    pub fn try_reap(&mut self) -> Option<Exit> {
        let reason = self.process.try_reap()?;
        let requests = std::mem::take(&mut self.live);
        let told = self.verdict.take().unwrap_or_else(|| {
            let message = format!("Model process died: {reason}");
            Failure::new(Code::ModelDied, message)
        });
        Some(Exit {
            reason,
            requests,
            told,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Gives up the model: what is left to be ended and buried.
    pub fn into_process(self) -> ModelProcess {
        self.process
    }
}

/// The end of a worker.
pub struct Exit {
    /// For whoever runs the bridge.
    pub reason: String,
    /// The requests that it had.
    pub requests: Vec<u64>,
    /// What they are answered.
    pub told: Failure,
}
