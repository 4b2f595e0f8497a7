//! How many threads are quickest for a step of few tokens, by what such steps take: a small model
//! loses more by threads that wait for each other than it gains by more of them.

use std::time::Duration;

/// Steps between two trials of another number: at the worst a trial costs a step as long again.
const PERIOD: u32 = 1024;

/// The same after a trial that was quicker: one alone may be chance.
const AGAIN: u32 = 64;

/// Quicker trials in a row that change the number.
const WINS: u32 = 3;

/// A number is quicker if its steps take less than this part of the others' time.
const QUICKER: f64 = 0.95;

/// A model whose token takes longer than this is not tried out while it loads: the time would be
/// noticed, and such a model gains by all threads.
const SMALL: Duration = Duration::from_millis(10);

/// The quickest number of threads.
pub(crate) struct ThreadTuner {
    most: u32,
    best: u32,
    /// What is tried next.
    other: u32,
    /// Steps until then.
    left: u32,
    /// Trials in a row in which `other` was quicker.
    wins: u32,
    stage: Stage,
    /// What the last step took on the best number, and the trial.
    usual: Duration,
    tried: Duration,
}

/// What the next step is for.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Work,
    Trial,
    /// To be compared with the trial.
    Comparison,
}

impl ThreadTuner {
    /// With `most` threads at the most, which are the best until a trial shows otherwise.
    pub(crate) fn new(most: u32) -> Self {
        Self {
            most,
            best: most,
            other: most / 2,
            left: PERIOD,
            wins: 0,
            stage: Stage::Work,
            usual: Duration::ZERO,
            tried: Duration::ZERO,
        }
    }

    /// Finds the best number by `step`, which takes one on so many threads and says how long it
    /// took: half as many again and again, for as long as that is quicker.
    ///
    /// # Errors
    /// Those of `step`.
    pub(crate) fn find(
        &mut self,
        mut step: impl FnMut(u32) -> Result<Duration, String>,
    ) -> Result<(), String> {
        if self.most < 2 {
            return Ok(());
        }
        let mut quickest = step(self.most)?;
        let mut threads = self.most / 2;
        while threads > 0 && quickest <= SMALL {
            let took = step(threads)?.min(step(threads)?);
            // The first number had one step only, and that right after the load.
            quickest = quickest.min(step(self.best)?);
            if took > quickest.mul_f64(QUICKER) {
                break;
            }
            (self.best, quickest) = (threads, took);
            threads /= 2;
        }
        self.other = self.neighbour();
        Ok(())
    }

    /// Threads for the next step. Only `alone` is something tried.
    pub(crate) fn threads(&mut self, alone: bool) -> u32 {
        if !alone {
            self.stage = Stage::Work;
        }
        match self.stage {
            Stage::Trial => self.other,
            Stage::Work | Stage::Comparison => self.best,
        }
    }

    /// Learns from the step that [`threads`](Self::threads) was for. Those that are not `alike`,
    /// in the number of their tokens, are not compared.
    pub(crate) fn learn(&mut self, took: Duration, alike: bool) {
        if !alike || self.most < 2 {
            self.stage = Stage::Work;
            return;
        }
        match self.stage {
            Stage::Work => {
                self.usual = took;
                self.left = self.left.saturating_sub(1);
                if self.left == 0 {
                    self.left = PERIOD;
                    self.stage = Stage::Trial;
                }
            }
            Stage::Trial => {
                self.tried = took;
                self.stage = Stage::Comparison;
            }
            Stage::Comparison => {
                self.stage = Stage::Work;
                self.compare(self.usual.min(took));
            }
        }
    }

    fn compare(&mut self, usual: Duration) {
        if self.tried > usual.mul_f64(QUICKER) {
            self.wins = 0;
            self.other = self.neighbour();
            return;
        }
        self.wins += 1;
        self.left = AGAIN;
        if self.wins == WINS {
            self.wins = 0;
            self.best = self.other;
            self.other = self.neighbour();
        }
    }

    /// Half as many as the best or twice as many, in turns.
    fn neighbour(&self) -> u32 {
        let (fewer, more) = ((self.best / 2).max(1), (self.best * 2).min(self.most));
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

    /// What a step takes on so many threads where two are best, in microseconds.
    fn two_are_best(threads: u32) -> Duration {
        Duration::from_micros(match threads {
            1 => 150,
            2 => 100,
            more => 100 + 20 * u64::from(more),
        })
    }

    #[test]
    fn the_quickest_number_of_threads_is_found_at_the_load() {
        for (most, best) in [(1, 1), (2, 2), (4, 2), (64, 2)] {
            let mut gain = ThreadTuner::new(most);
            gain.find(|threads| Ok(two_are_best(threads)))
                .expect("no step fails");
            assert_eq!(gain.threads(true), best, "of {most}");
        }
    }

    #[test]
    fn a_large_model_is_not_tried_out_at_the_load() {
        let mut gain = ThreadTuner::new(64);
        let mut steps = 0;
        let outcome = gain.find(|threads| {
            steps += 1;
            Ok(2000 * two_are_best(threads))
        });
        assert_eq!((outcome, steps), (Ok(()), 1));
        assert_eq!(gain.threads(true), 64);
    }

    #[test]
    fn a_number_that_becomes_the_quickest_is_found_while_at_work() {
        let mut gain = ThreadTuner::new(8);
        let mut found = Vec::new();
        for _ in 0..20_000 {
            let threads = gain.threads(true);
            found.push(threads);
            gain.learn(two_are_best(threads), true);
        }
        let last = &found[10_000..];
        let elsewhere = last.iter().filter(|threads| **threads != 2).count();
        // What it costs to keep it up to date.
        assert!(elsewhere <= 10, "{elsewhere} of 10,000 steps");
        assert!(elsewhere > 0, "nothing is tried any more");
    }

    #[test]
    fn nothing_is_tried_in_company() {
        let mut gain = ThreadTuner::new(8);
        for _ in 0..10_000 {
            assert_eq!(gain.threads(false), 8);
            gain.learn(two_are_best(8), true);
        }
    }
}
