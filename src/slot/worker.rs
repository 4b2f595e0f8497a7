//! The process of the loaded model at work: which requests it has, when its last message came, and
//! when it has to be ended. Nothing here waits.

use std::time::{Duration, Instant};

use super::events::Event;
use super::process::ModelProcess;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::{FromModel, ToModel, Work};
use llama_cpp_bridge::sys::poll::PollFd;

/// How long a cancelled request may go on after the step that was announced, before the process
/// is ended instead. A step of more than a tenth of a second is announced, so one that is silent
/// for so long is stuck.
const CANCEL_PATIENCE: Duration = Duration::from_secs(2);

/// The process of a loaded model.
pub struct Worker {
    process: ModelProcess,
    /// The requests that it works on.
    live: Vec<u64>,
    /// Requests that it was told to give up and has not yet.
    cancelled: Vec<u64>,
    /// When a request was last given up.
    cancelled_at: Instant,
    /// When its last message came, or it got something to do after it had nothing.
    last_message: Instant,
    /// Until when it announced to be busy.
    busy_until: Instant,
    /// What answers its requests when it ends, if that was decided here.
    end_reason: Option<Failure>,
}

impl Worker {
    /// Puts a process that has loaded its model to work.
    pub fn new(process: ModelProcess, now: Instant) -> Self {
        Self {
            process,
            live: Vec::new(),
            cancelled: Vec::new(),
            cancelled_at: now,
            last_message: now,
            busy_until: now,
            end_reason: None,
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

    /// Whether it was told to end, or has ended, and is not reaped yet.
    pub fn ending(&self) -> bool {
        self.process.ending()
    }

    /// Sends it a request.
    pub fn ask(&mut self, id: u64, work: Work, now: Instant) {
        if self.live.is_empty() {
            self.last_message = now;
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

    /// Reads what it sent.
    pub fn receive(&mut self, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        for message in self.process.pump() {
            self.last_message = now;
            self.busy_until = now;
            match message {
                FromModel::Busy(milliseconds) => {
                    self.busy_until = now + Duration::from_millis(milliseconds);
                }
                FromModel::Piece(id, piece) if self.live.contains(&id) => {
                    events.push(Event::Piece(id, piece));
                }
                FromModel::Answer(id, answer) => {
                    self.cancelled.retain(|cancelled| *cancelled != id);
                    if self.live.contains(&id) {
                        self.live.retain(|live| *live != id);
                        events.push(Event::Answer(id, answer));
                    }
                }
                _ => (),
            }
        }
        events
    }

    /// Ends it if it is stuck, or if ending it is quicker than waiting for it to give up what was
    /// cancelled: that is so if a request waits for it (`wanted`) and it takes less time to load
    /// the model again (`reload`) than it will be busy. `stall` is how long it may be silent,
    /// beyond the step that it announced, while it has requests. Returns when to call this again.
    pub fn tick(
        &mut self,
        now: Instant,
        wanted: bool,
        reload: Duration,
        stall: Duration,
    ) -> Option<Instant> {
        if self.process.ending() {
            return None;
        }
        // What it announced does not count as silence.
        let stalled = self.busy_until.max(self.last_message) + stall;
        let stalled = (!self.live.is_empty()).then_some(stalled);
        let stuck = self.busy_until.max(self.cancelled_at) + CANCEL_PATIENCE;
        let stuck = (!self.cancelled.is_empty()).then_some(stuck);
        if stalled.is_some_and(|at| at <= now) {
            let message = format!(
                "The model process was unresponsive for {} s",
                stall.as_secs()
            );
            self.end(Some(Failure::new(Code::Timeout, message)));
            return None;
        }
        if let Some(at) = stuck {
            let busy = self.busy_until.saturating_duration_since(now);
            let quicker = wanted && self.live.is_empty() && busy > reload;
            if quicker || at <= now {
                self.end(None);
                return None;
            }
        }
        stalled.into_iter().chain(stuck).min()
    }

    /// Since when it has had nothing to do; `None` while it has.
    pub fn idle_since(&self) -> Option<Instant> {
        let idle = self.live.is_empty() && self.cancelled.is_empty() && !self.process.ending();
        idle.then_some(self.last_message)
    }

    fn end(&mut self, reason: Option<Failure>) {
        self.end_reason = reason;
        self.process.end();
    }

    /// Once the process is gone: what it died of, the requests that it had, and what answers them.
    pub fn try_reap(&mut self) -> Option<Exit> {
        let reason = self.process.try_reap()?;
        let requests = std::mem::take(&mut self.live);
        let failure = self.end_reason.take().unwrap_or_else(|| {
            let message = format!("Model process died: {reason}");
            Failure::new(Code::ModelDied, message)
        });
        Some(Exit {
            reason,
            requests,
            failure,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Gives up the model: what is left to be ended and reaped.
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
    /// What answers them.
    pub failure: Failure,
}
