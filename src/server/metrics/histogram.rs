//! How many times lay within which bounds.

use std::time::Duration;

/// The upper bounds, in milliseconds: from less than a token takes on any machine to longer than a
/// context takes to fill on most. Three to a decade, so that a quantile that is estimated from them
/// is off by a factor of 2.5 at most.
pub const BOUNDS: [u64; 14] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000,
];

/// Times that were observed.
#[derive(Default)]
pub struct Histogram {
    /// Times up to the bound of the same place and above the one before; the last are those above
    /// all bounds.
    counts: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl Histogram {
    /// Takes a time in.
    pub fn observe(&mut self, time: Duration) {
        let within = |bound: &u64| time <= Duration::from_millis(*bound);
        let at = BOUNDS.iter().position(within).unwrap_or(BOUNDS.len());
        self.counts[at] += 1;
        self.sum += time;
    }

    /// Each bound in seconds, and how many times lie below it.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut below = 0;
        BOUNDS.iter().zip(&self.counts).map(move |(bound, count)| {
            below += count;
            (*bound as f64 / 1000.0, below)
        })
    }

    /// How many times there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them added up.
    pub fn sum(&self) -> Duration {
        self.sum
    }
}
