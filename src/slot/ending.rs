//! Model processes that were told to end. The kernel ends one at once, unless it is in a system call
//! that nothing interrupts, on a disk or in a driver that does not answer: nothing waits for such a
//! process longer than [`END_LIMIT`], but its memory is not back.

use std::io;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use llama_cpp_bridge::sys::child;
use llama_cpp_bridge::sys::log::{self, Level};

/// How long a process that was killed may take to be gone. The memory of a large model takes some
/// seconds to be freed.
pub const END_LIMIT: Duration = Duration::from_secs(10);

/// A child that leads a process group. It is killed, with that, when this is dropped.
pub struct ModelChild {
    child: Child,
    reaped: bool,
}

impl ModelChild {
    /// Takes over a child that was started in a process group of its own.
    pub fn new(child: Child) -> Self {
        let reaped = false;
        Self { child, reaped }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it end, and all that it has started.
    pub fn kill(&mut self) {
        if !self.reaped {
            child::kill_group(self.pid());
        }
    }

    /// Its exit status, if it has ended; what it has started ends with it.
    ///
    /// # Errors
    /// Those of waitid(2).
    pub fn try_reap(&mut self) -> io::Result<Option<ExitStatus>> {
        if !self.reaped && !child::has_ended(self.pid())? {
            return Ok(None);
        }
        self.kill();
        let status = self.child.try_wait();
        self.reaped = matches!(status, Ok(Some(_)));
        status
    }

    /// Whether nothing is left of it.
    fn is_gone(&mut self) -> bool {
        // It can only fail for one that is no child any more.
        self.try_reap().map_or(true, |status| status.is_some())
    }
}

impl Drop for ModelChild {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Processes that were killed and are not gone yet.
#[derive(Default)]
pub struct Ending(Vec<Killed>);

struct Killed {
    child: ModelChild,
    since: Instant,
    /// It was logged that it is still there.
    reported: bool,
}

impl Killed {
    fn overdue_at(&self) -> Instant {
        self.since + END_LIMIT
    }
}

impl Ending {
    /// Kills a process.
    pub fn add(&mut self, mut child: ModelChild, now: Instant) {
        child.kill();
        if !child.is_gone() {
            self.0.push(Killed {
                child,
                since: now,
                reported: false,
            });
        }
    }

    /// Reaps those that are gone.
    pub fn reap(&mut self, now: Instant) {
        self.0.retain_mut(|killed| {
            let gone = killed.child.is_gone();
            if gone && killed.reported {
                let seconds = (now - killed.since).as_secs();
                let message = format!(
                    "model process {} has ended, {seconds} s after it was killed",
                    killed.child.pid()
                );
                log::write(Level::Info, &message);
            }
            !gone
        });
    }

    /// Logs which ones should be gone and are not; returns when to call this again.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        for killed in &mut self.0 {
            if !killed.reported && killed.overdue_at() <= now {
                killed.reported = true;
                let message = format!(
                    "model process {} was killed {} s ago and has not ended; its memory is not back",
                    killed.child.pid(),
                    END_LIMIT.as_secs()
                );
                log::write(Level::Error, &message);
            }
        }
        let waiting = self.0.iter().filter(|killed| !killed.reported);
        waiting.map(Killed::overdue_at).min()
    }

    /// Whether all of them are gone.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one may still be gone in time.
    pub fn is_waited_for(&self, now: Instant) -> bool {
        self.0.iter().any(|killed| now < killed.overdue_at())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// What there is to say of them.
    pub fn describe(&self) -> String {
        let pids = self.0.iter().map(|killed| killed.child.pid().to_string());
        let pids = pids.collect::<Vec<_>>().join(", ");
        match self.0.len() {
            1 => format!("model process {pids} was killed and has not ended"),
            _ => format!("model processes {pids} were killed and have not ended"),
        }
    }
}
