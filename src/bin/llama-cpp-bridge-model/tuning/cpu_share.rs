//! How many threads a model process may run beside others, by what it sees of them: its share of
//! the machine's processors.
//!
//! Threads of one calculation wait for each other, so that one thread too many costs more than it
//! brings: all of them wait until it has had its turn on a processor. So the number follows what
//! the others leave. Too many threads are scaled down at once, so that all fit if everyone does the
//! same; one that has room grows step by step.

/// How much of a new sample is believed: a passing thread is not to count as company, one that
/// stays is to be noticed within three graphs.
const WEIGHT: f64 = 0.25;

/// So much more than there is room for, in threads, is too many.
const TOO_MANY: f64 = 0.6;

/// So much less than a thread's room is enough for one more.
const ENOUGH: f64 = 0.3;

/// Graphs in a row that leave room before there is one thread more, or the threads spin again.
/// Company that comes and goes is thus company.
const CALM: u32 = 16;

/// Steps from one thread to all processors of a large machine.
const STEPS: u32 = 16;

/// A share of the machine.
pub(crate) struct CpuShare {
    /// Processors of the machine.
    processors: u32,
    /// Threads at the most.
    most: u32,
    threads: u32,
    /// Threads of others that are runnable, on average.
    others: f64,
    /// Graphs in a row that left room for a thread more.
    roomy: u32,
    /// Graphs in a row in which no thread of ours had to wait for a processor.
    calm: u32,
}

impl CpuShare {
    /// Of a machine of so many processors, on which one may run `most` threads. As if alone.
    pub(crate) fn new(processors: u32, most: u32) -> Self {
        Self {
            processors: processors.max(1),
            most: most.max(1),
            threads: most.max(1),
            others: 0.0,
            roomy: CALM,
            calm: CALM,
        }
    }

    /// Threads that may run now.
    pub(crate) fn threads(&self) -> u32 {
        self.threads
    }

    /// Whether every thread has a processor to itself, and has had for a while. Then threads may look
    /// for work for long; else one that does keeps those that it waits for from running.
    pub(crate) fn alone(&self) -> bool {
        self.calm >= CALM
    }

    /// Whether so many threads of others leave a processor to each of the most threads of ours.
    // The tests play the rules, which need no looks.
    #[cfg_attr(test, allow(dead_code))]
    pub(crate) fn leave_room(&self, others: u32) -> bool {
        self.most + others <= self.processors
    }

    /// Begins after a rest, with a look at the machine, on which `others` threads of others ran.
    /// What was known before a long rest no longer counts (`anew`).
    pub(crate) fn begin(&mut self, others: u32, anew: bool) {
        if anew {
            self.threads = self.most;
            self.roomy = CALM;
            self.calm = CALM;
            // Half believed: whoever brought the work may still be runnable itself.
            self.others = f64::from(others) / 2.0;
            self.fit();
        }
        if self.threads + others > self.processors {
            self.calm = 0;
        }
    }

    /// Learns from the end of a graph that ran on `team` threads, when `runnable` threads of all
    /// were runnable, those included.
    pub(crate) fn learn(&mut self, team: u32, runnable: u32) {
        let others = f64::from(runnable.saturating_sub(team));
        self.others += (others - self.others) * WEIGHT;
        let fits = f64::from(team) + others <= f64::from(self.processors);
        self.calm = if fits { self.calm.saturating_add(1) } else { 0 };
        if self.fit() {
            self.roomy = 0;
            return;
        }
        let room = f64::from(self.processors) - self.others;
        if f64::from(self.threads) + 1.0 > room + ENOUGH {
            self.roomy = 0;
            return;
        }
        self.roomy = self.roomy.saturating_add(1);
        if self.roomy >= CALM {
            let step = (self.processors / STEPS)
                .max(1)
                .min(room.round() as u32 - self.threads);
            self.threads = (self.threads + step).min(self.most);
        }
    }

    /// Scales the threads down if they are too many beside the others. Whether that was so.
    fn fit(&mut self) -> bool {
        let (processors, threads) = (f64::from(self.processors), f64::from(self.threads));
        if threads <= (processors - self.others + TOO_MANY).max(1.0) {
            return false;
        }
        let share = threads * processors / (threads + self.others);
        self.threads = (share as u32).max(1);
        true
    }
}
