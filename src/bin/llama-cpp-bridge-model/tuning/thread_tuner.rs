//! How many threads are fastest for a step of few tokens, by measuring: a small model loses more by
//! threads that wait for each other than it gains by more of them.

use std::time::Duration;

/// Steps between two trials of another number: at worst, a trial takes twice as long as a step.
const TRIAL_INTERVAL: u32 = 1024;

/// The same after a trial that was faster: one may be chance.
const RETRIAL_INTERVAL: u32 = 64;

/// Faster trials in a row that change the number.
const WINS: u32 = 3;

/// A number is faster if its steps take less than this part of the others' time.
const FASTER: f64 = 0.95;

/// A model whose token takes longer than this is not measured while it loads: that would be
/// noticed, and such a model is fastest on all threads.
const SMALL: Duration = Duration::from_millis(10);

/// The fastest number of threads.
pub(super) struct ThreadTuner {
    max_threads: u32,
    best: u32,
    /// What is tried next.
    other: u32,
    /// Steps until then.
    left: u32,
    /// Trials in a row in which `other` was faster.
    wins: u32,
    stage: Stage,
    /// The time of the last step on the best number, and of the trial.
    normal: Duration,
    trial: Duration,
}

/// What the next step is for.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Normal,
    Trial,
    /// To be compared with the trial.
    Comparison,
}

impl ThreadTuner {
    /// For at most `max_threads`, which are the best until a trial shows otherwise.
    pub(super) fn new(max_threads: u32) -> Self {
        Self {
            max_threads,
            best: max_threads,
            other: max_threads / 2,
            left: TRIAL_INTERVAL,
            wins: 0,
            stage: Stage::Normal,
            normal: Duration::ZERO,
            trial: Duration::ZERO,
        }
    }

    /// Finds the best number by `step`, which takes one on the given number of threads and returns its
    /// time: halves the number as long as that is faster.
    ///
    /// # Errors
    /// Those of `step`.
    pub(super) fn find(
        &mut self,
        mut step: impl FnMut(u32) -> Result<Duration, String>,
    ) -> Result<(), String> {
        if self.max_threads < 2 {
            return Ok(());
        }
        let mut fastest = step(self.max_threads)?;
        let mut threads = self.max_threads / 2;
        while threads > 0 && fastest <= SMALL {
            let took = step(threads)?.min(step(threads)?);
            // The first number had only one step, right after the load.
            fastest = fastest.min(step(self.best)?);
            if took > fastest.mul_f64(FASTER) {
                break;
            }
            (self.best, fastest) = (threads, took);
            threads /= 2;
        }
        self.other = self.neighbor();
        Ok(())
    }

    /// Threads for the next step. Trials are made only `alone`.
    pub(super) fn threads(&mut self, alone: bool) -> u32 {
        if !alone {
            self.stage = Stage::Normal;
        }
        match self.stage {
            Stage::Trial => self.other,
            Stage::Normal | Stage::Comparison => self.best,
        }
    }

    /// Learns from the step that [`threads`](Self::threads) was for. It is compared only if it is
    /// `comparable`: has as many tokens as the last one.
    pub(super) fn learn(&mut self, took: Duration, comparable: bool) {
        if !comparable || self.max_threads < 2 {
            self.stage = Stage::Normal;
            return;
        }
        match self.stage {
            Stage::Normal => {
                self.normal = took;
                self.left = self.left.saturating_sub(1);
                if self.left == 0 {
                    self.left = TRIAL_INTERVAL;
                    self.stage = Stage::Trial;
                }
            }
            Stage::Trial => {
                self.trial = took;
                self.stage = Stage::Comparison;
            }
            Stage::Comparison => {
                self.stage = Stage::Normal;
                self.compare(self.normal.min(took));
            }
        }
    }

    fn compare(&mut self, normal: Duration) {
        if self.trial > normal.mul_f64(FASTER) {
            self.wins = 0;
            self.other = self.neighbor();
            return;
        }
        self.wins += 1;
        self.left = RETRIAL_INTERVAL;
        if self.wins == WINS {
            self.wins = 0;
            self.best = self.other;
            self.other = self.neighbor();
        }
    }

    /// Half or twice the best number, in turns.
    fn neighbor(&self) -> u32 {
        let (fewer, more) = (
            (self.best / 2).max(1),
            (self.best * 2).min(self.max_threads),
        );
        match self.other < self.best || fewer == self.best {
            true if more > self.best => more,
            _ => fewer,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::ThreadTuner;

    /// The time of a step where two threads are best.
    fn two_are_best(threads: u32) -> Duration {
        Duration::from_micros(match threads {
            1 => 150,
            2 => 100,
            more => 100 + 20 * u64::from(more),
        })
    }

    #[test]
    fn the_fastest_number_of_threads_is_found_at_the_load() {
        for (max_threads, best) in [(1, 1), (2, 2), (4, 2), (64, 2)] {
            let mut tuner = ThreadTuner::new(max_threads);
            tuner
                .find(|threads| Ok(two_are_best(threads)))
                .expect("no step fails");
            assert_eq!(tuner.threads(true), best, "of {max_threads}");
        }
    }

    #[test]
    fn a_large_model_is_not_measured_at_the_load() {
        let mut tuner = ThreadTuner::new(64);
        let mut steps = 0;
        let outcome = tuner.find(|threads| {
            steps += 1;
            Ok(2000 * two_are_best(threads))
        });
        assert_eq!((outcome, steps), (Ok(()), 1));
        assert_eq!(tuner.threads(true), 64);
    }

    #[test]
    fn a_number_that_becomes_the_fastest_is_found_in_use() {
        let mut tuner = ThreadTuner::new(8);
        let mut found = Vec::new();
        for _ in 0..20_000 {
            let threads = tuner.threads(true);
            found.push(threads);
            tuner.learn(two_are_best(threads), true);
        }
        let last = &found[10_000..];
        let elsewhere = last.iter().filter(|threads| **threads != 2).count();
        // What it costs to keep it up to date.
        assert!(elsewhere <= 10, "{elsewhere} of 10,000 steps");
        assert!(elsewhere > 0, "nothing is tried any more");
    }

    #[test]
    fn nothing_is_tried_beside_other_processes() {
        let mut tuner = ThreadTuner::new(8);
        for _ in 0..10_000 {
            assert_eq!(tuner.threads(false), 8);
            tuner.learn(two_are_best(8), true);
        }
    }
}
