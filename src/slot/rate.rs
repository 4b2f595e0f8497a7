//! How much of something is taken in a time: so much at once, and so much a second from then on.

use std::time::{Duration, Instant};

/// A budget that what is taken is charged to, and that time refills.
pub struct Rate {
    /// What is left; less than nothing once more was taken than there was.
    level: f64,
    /// The most that is saved up.
    burst: f64,
    per_second: f64,
    /// When it was last refilled.
    refilled: Instant,
}

impl Rate {
    /// A full budget.
    pub fn new(burst: u32, per_second: u32) -> Self {
        Self {
            level: burst.into(),
            burst: burst.into(),
            per_second: per_second.into(),
            refilled: Instant::now(),
        }
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let enough = self.level >= 1.0;
        if enough {
            self.level -= 1.0;
        }
        enough
    }

    /// Takes so many, whether there are as many or not.
    pub fn spend(&mut self, count: usize, now: Instant) {
        self.refill(now);
        self.level -= count as f64;
    }

    /// Until when nothing is left; `None` if something is.
    pub fn exhausted_until(&self, now: Instant) -> Option<Instant> {
        let passed = now.saturating_duration_since(self.refilled).as_secs_f64();
        let lacking = -(self.level + passed * self.per_second);
        (lacking >= 0.0).then(|| now + Duration::from_secs_f64((lacking + 1.0) / self.per_second))
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.level = (self.level + passed * self.per_second).min(self.burst);
        self.refilled = self.refilled.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_gives_its_burst_and_then_what_time_has_brought() {
        let mut rate = Rate::new(3, 10);
        let start = rate.refilled;
        let taken = |rate: &mut Rate, at| (0..100).filter(|_| rate.take(at)).count();
        assert_eq!(taken(&mut rate, start), 3);
        assert_eq!(taken(&mut rate, start + Duration::from_millis(210)), 2);
        // What is not taken is saved up to the burst, and no further.
        assert_eq!(taken(&mut rate, start + Duration::from_secs(3600)), 3);
        // An older time changes nothing.
        assert_eq!(taken(&mut rate, start), 0);
    }

    #[test]
    fn what_was_spent_too_much_is_waited_for() {
        let mut rate = Rate::new(1000, 1000);
        let start = rate.refilled;
        assert_eq!(rate.exhausted_until(start), None);
        rate.spend(3000, start);
        let until = rate.exhausted_until(start).expect("it is exhausted");
        let wait = until - start;
        assert!((2.0..2.1).contains(&wait.as_secs_f64()), "{wait:?}");
        assert!(
            rate.exhausted_until(until - Duration::from_millis(5))
                .is_some()
        );
        assert_eq!(rate.exhausted_until(until), None);
    }
}
