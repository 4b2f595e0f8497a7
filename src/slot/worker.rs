//! The process of the loaded model at work: which requests it has, when its last message came, and
//! when it has to be ended. Nothing here waits.

use std::time::{Duration, Instant};

use super::ending::ModelChild;
use super::events::Event;
use super::process::ModelProcess;
use super::states::ModelStates;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::{Answer, FromModel, Part, ToModel, Work};
use llama_cpp_bridge::shared::parts::Parts;
use llama_cpp_bridge::sys::poll::PollFd;

/// How long a cancelled request may go on after the step that was announced, before the process
/// is ended instead. A step of more than a tenth of a second is announced, so one that is silent
/// for so long is stuck.
const CANCEL_PATIENCE: Duration = Duration::from_secs(2);

/// The longest step that is believed, whatever was announced: after it the time runs in which the
/// process may be silent.
const LONGEST_STEP: Duration = Duration::from_secs(600);

/// The process of a loaded model.
pub struct Worker {
    process: ModelProcess,
    /// `None` without a directory for them.
    states: Option<ModelStates>,
    /// The requests that it works on.
    live: Vec<Live>,
    /// Requests that it was told to give up and has not yet.
    cancelled: Vec<Cancelled>,
    /// When its last message came, or it got something to do after it had nothing.
    last_message: Instant,
    /// Until when it announced to be busy.
    busy_until: Instant,
    /// What answers its requests when it ends, if that was decided here.
    end_reason: Option<Failure>,
}

/// A request that it works on.
struct Live {
    id: u64,
    /// What has come of its answer.
    parts: Parts,
}

/// A request that was cancelled.
struct Cancelled {
    id: u64,
    since: Instant,
    /// Until when it may be in a step that it began before it read of that.
    busy_until: Instant,
}

impl Cancelled {
    /// Takes note until when the process says now that it is busy. It may have announced a step before
    /// it reads of a cancelled request, but goes on with no other one after it.
    fn note(&mut self, busy_until: Instant, now: Instant) {
        let late = now >= self.since + CANCEL_PATIENCE;
        let latest = if late {
            self.busy_until
        } else {
            self.since + LONGEST_STEP
        };
        self.busy_until = busy_until.min(latest);
    }

    /// When the process is to be ended if it has not given it up.
    fn patience_ends(&self) -> Instant {
        self.busy_until.max(self.since) + CANCEL_PATIENCE
    }
}

impl Worker {
    /// Puts a process that has loaded its model to work.
    pub fn new(process: ModelProcess, states: Option<ModelStates>, now: Instant) -> Self {
        Self {
            process,
            states,
            live: Vec::new(),
            cancelled: Vec::new(),
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

    /// Whether it has ended, or is about to.
    pub fn ending(&self) -> bool {
        self.process.ending()
    }

    /// Sends it a request.
    ///
    /// # Errors
    /// The answer, where it has none to give.
    pub fn ask(&mut self, id: u64, work: Work, now: Instant) -> Result<(), Failure> {
        if let Some(states) = &mut self.states {
            states.prepare(id, &work)?;
        }
        if self.live.is_empty() {
            self.last_message = now;
            self.process.forget_log();
        }
        let parts = Parts::default();
        self.live.push(Live { id, parts });
        self.process.send(ToModel::Work(id, work));
        Ok(())
    }

    /// Has it give up a request.
    pub fn cancel(&mut self, id: u64, now: Instant) {
        let before = self.live.len();
        self.live.retain(|live| live.id != id);
        if self.live.len() == before {
            return;
        }
        self.cancelled.push(Cancelled {
            id,
            since: now,
            busy_until: self.busy_until,
        });
        self.process.send(ToModel::Cancel(id));
    }

    /// Reads what it sent, if that is `readable`, and whether it is gone, if a child has `ended`.
    pub fn receive(&mut self, now: Instant, readable: bool, ended: bool) -> Vec<Event> {
        let mut events = Vec::new();
        for message in self.process.receive(now, readable, ended) {
            self.last_message = now;
            self.busy_until = now;
            match message {
                FromModel::Busy(milliseconds) => {
                    self.busy_until = now + believed(milliseconds);
                }
                FromModel::Part(id, part) => events.extend(self.take_part(id, part)),
                FromModel::Answer(id, answer) => {
                    self.cancelled.retain(|cancelled| cancelled.id != id);
                    events.extend(self.take_answer(id, answer));
                }
                _ => (),
            }
            for cancelled in &mut self.cancelled {
                cancelled.note(self.busy_until, now);
            }
        }
        events
    }

    /// Keeps a part of an answer that is wanted still.
    fn take_part(&mut self, id: u64, part: Part) -> Option<Event> {
        let live = self.live.iter_mut().find(|live| live.id == id)?;
        let piece = match &part {
            Part::Text(text) => Some(Event::Piece(id, text.clone())),
            Part::Tokens(_) | Part::Values(_) => None,
        };
        live.parts.push(part);
        piece
    }

    /// The whole answer to a request, if it is wanted still.
    fn take_answer(&mut self, id: u64, answer: Result<Answer, Failure>) -> Option<Event> {
        let at = self.live.iter().position(|live| live.id == id);
        let answer = self.settle(id, answer, at.is_some());
        let live = self.live.remove(at?);
        let answer = answer.map(|end| live.parts.complete(end));
        Some(Event::Answer(id, answer))
    }

    /// The answer to a request, once what it says of saved states has been seen to.
    fn settle(
        &mut self,
        id: u64,
        mut answer: Result<Answer, Failure>,
        wanted: bool,
    ) -> Result<Answer, Failure> {
        if let Some(states) = &mut self.states
            && let Err(what) = states.settle(id, &mut answer, wanted)
        {
            self.process.kill(format!("killed: {what}"));
        }
        answer
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
        let process = self.process.tick(now);
        if self.process.ending() {
            return process;
        }
        // What it announced does not count as silence.
        let stalled = self.busy_until.max(self.last_message) + stall;
        let stalled = (!self.live.is_empty()).then_some(stalled);
        let stuck = self.cancelled.iter().map(Cancelled::patience_ends).min();
        if stalled.is_some_and(|at| at <= now) {
            let silence = format!("unresponsive for {} s", stall.as_secs());
            let message = format!("The model process was {silence}");
            self.end_reason = Some(Failure::new(Code::Timeout, message));
            self.process.kill(format!("killed: {silence}"));
            return Some(now);
        }
        if let Some(at) = stuck {
            let busy = self.busy_until.saturating_duration_since(now);
            let quicker = wanted && self.live.is_empty() && busy > reload;
            if quicker || at <= now {
                let reason = "killed: did not give up a cancelled request in time";
                self.process.kill(reason.to_string());
                return Some(now);
            }
        }
        stalled.into_iter().chain(stuck).chain(process).min()
    }

    /// Since when it has had nothing to do; `None` while it has.
    pub fn idle_since(&self) -> Option<Instant> {
        let idle = self.live.is_empty() && self.cancelled.is_empty() && !self.process.ending();
        idle.then_some(self.last_message)
    }

    /// Once nothing more comes of it: what it died of, the requests that it had, and what answers
    /// them.
    pub fn exit(&mut self) -> Option<Exit> {
        let reason = self.process.end()?.to_string();
        let requests = self.live.drain(..).map(|live| live.id).collect();
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

    /// Gives up the model: what is left has to end.
    pub fn into_child(self) -> ModelChild {
        self.process.into_child()
    }
}

/// How long a step is taken to last that was announced to last so long.
fn believed(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds).min(LONGEST_STEP)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_step_that_was_begun_before_is_waited_for() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let ends = |notes: &[(u64, u64)]| {
            let (id, since, busy_until) = (1, start, after(5000));
            let mut cancelled = Cancelled {
                id,
                since,
                busy_until,
            };
            for (now, busy) in notes {
                cancelled.note(after(now + busy), after(*now));
            }
            (cancelled.patience_ends() - start).as_millis()
        };
        assert_eq!(ends(&[]), 7000);
        // One that is announced when it should have known, and one that is over sooner.
        assert_eq!(ends(&[(100, 8000)]), 10_100);
        assert_eq!(ends(&[(100, 8000), (3000, 0)]), 5000);
        assert_eq!(ends(&[(100, u64::from(u32::MAX))]), 602_000);
        // One after the other.
        let steps: Vec<(u64, u64)> = (0..1000).map(|step| (step * 10, 10)).collect();
        assert!(ends(&steps) < 4100, "{}", ends(&steps));
    }

    #[test]
    fn no_step_is_believed_to_last_longer_than_ten_minutes() {
        for (announced, seconds) in [(0, 0), (599_999, 599), (600_001, 600), (u64::MAX, 600)] {
            assert_eq!(believed(announced).as_secs(), seconds, "{announced}");
        }
    }
}
