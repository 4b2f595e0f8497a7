//! How many threads a model process may run beside other processes: its share of the processors.
//!
//! Threads of one computation wait for each other, so that one thread too many costs more than it
//! gains: all others wait until it has been scheduled. So the number follows what other processes
//! leave. Too many threads are reduced at once, so that all fit if everyone does the same; with
//! headroom, the number grows step by step.

/// The weight of a new sample: a thread of others that runs briefly is not to count, one that stays
/// is to be noticed within three graphs.
const WEIGHT: f64 = 0.25;

/// More threads than processors by this much are too many.
const TOO_MANY: f64 = 0.6;

/// Headroom of one thread less this much is enough for one more.
const ENOUGH: f64 = 0.3;

/// Graphs in a row with headroom before there is one thread more, or before the threads spin long
/// again. So processes that come and go count.
const QUIET: u32 = 16;

/// In how many steps the number grows from one thread to all processors of a large machine.
const STEPS: u32 = 16;

/// A share of the processors.
pub(super) struct CpuShare {
    /// Processors of the machine.
    processors: u32,
    /// The most threads.
    max_threads: u32,
    threads: u32,
    /// Runnable threads of other processes, on average.
    others: f64,
    /// Graphs in a row with headroom for one thread more.
    headroom_steps: u32,
    /// Graphs in a row in which no thread of ours had to wait for a processor.
    quiet_steps: u32,
}

impl CpuShare {
    /// Of a machine with this many processors, on which at most `max_threads` may run; as if alone.
    pub(super) fn new(processors: u32, max_threads: u32) -> Self {
        Self {
            processors: processors.max(1),
            max_threads: max_threads.max(1),
            threads: max_threads.max(1),
            others: 0.0,
            headroom_steps: QUIET,
            quiet_steps: QUIET,
        }
    }

    /// Threads that may run now.
    pub(super) fn threads(&self) -> u32 {
        self.threads
    }

    /// Whether every thread has had a processor to itself for a while. Then threads may spin for long;
    /// else one that does keeps those that it waits for from running.
    pub(super) fn is_alone(&self) -> bool {
        self.quiet_steps >= QUIET
    }

    /// Whether this many threads of others leave a processor for each of ours, even if all run.
    pub(super) fn fits_beside(&self, others: u32) -> bool {
        self.max_threads + others <= self.processors
    }

    /// Begins after a pause, when `others` threads of others are runnable. After a long one, what was
    /// known before no longer counts (`reset`).
    pub(super) fn resume(&mut self, others: u32, reset: bool) {
        if reset {
            self.threads = self.max_threads;
            self.headroom_steps = QUIET;
            self.quiet_steps = QUIET;
            // Only half, as the client that sent the work may still be runnable itself.
            self.others = f64::from(others) / 2.0;
            self.shrink();
        }
        if self.threads + others > self.processors {
            self.quiet_steps = 0;
        }
    }

    /// Learns from the end of a graph that ran on `team` threads, when `runnable` threads of the whole
    /// machine were runnable, those included.
    pub(super) fn learn(&mut self, team: u32, runnable: u32) {
        let others = f64::from(runnable.saturating_sub(team));
        self.others += (others - self.others) * WEIGHT;
        let fits = f64::from(team) + others <= f64::from(self.processors);
        self.quiet_steps = if fits {
            self.quiet_steps.saturating_add(1)
        } else {
            0
        };
        if self.shrink() {
            self.headroom_steps = 0;
            return;
        }
        let available = f64::from(self.processors) - self.others;
        if f64::from(self.threads) + 1.0 > available + ENOUGH {
            self.headroom_steps = 0;
            return;
        }
        self.headroom_steps = self.headroom_steps.saturating_add(1);
        if self.headroom_steps >= QUIET {
            let step = (self.processors / STEPS)
                .max(1)
                .min(available.round() as u32 - self.threads);
            self.threads = (self.threads + step).min(self.max_threads);
        }
    }

    /// Reduces the threads if they are too many beside the others. Returns whether they were.
    fn shrink(&mut self) -> bool {
        let (processors, threads) = (f64::from(self.processors), f64::from(self.threads));
        if threads <= (processors - self.others + TOO_MANY).max(1.0) {
            return false;
        }
        let share = threads * processors / (threads + self.others);
        self.threads = (share as u32).max(1);
        true
    }
}

#[cfg(test)]
mod tests {
    //! The rules on simulated machines: no thread runs here, and no time passes.

    use super::CpuShare;

    /// A bridge: its share, and whether it has graphs to compute.
    struct Simulated {
        share: CpuShare,
        works: bool,
    }

    /// A machine with bridges, which take their samples one after the other.
    struct Machine {
        bridges: Vec<Simulated>,
        /// Threads of other programs that always run.
        busy: u32,
    }

    impl Machine {
        fn new(processors: u32, bridges: usize, busy: u32) -> Machine {
            let bridge = || Simulated {
                share: CpuShare::new(processors, processors),
                works: true,
            };
            Machine {
                bridges: (0..bridges).map(|_| bridge()).collect(),
                busy,
            }
        }

        /// All bridges that work compute a graph, and learn from what is runnable at its end.
        fn graph(&mut self) -> Vec<u32> {
            for at in 0..self.bridges.len() {
                let working = self.bridges.iter().filter(|one| one.works);
                let runnable = self.busy + working.map(|one| one.share.threads()).sum::<u32>();
                let bridge = &mut self.bridges[at];
                if bridge.works {
                    bridge.share.learn(bridge.share.threads(), runnable);
                }
            }
            self.threads()
        }

        fn graphs(&mut self, count: u32) -> Vec<u32> {
            (0..count).for_each(|_| drop(self.graph()));
            self.threads()
        }

        fn threads(&self) -> Vec<u32> {
            self.bridges.iter().map(|one| one.share.threads()).collect()
        }
    }

    #[test]
    fn a_bridge_alone_has_all_processors_and_may_spin() {
        for processors in [1, 2, 8, 64] {
            let mut machine = Machine::new(processors, 1, 0);
            for _ in 0..1000 {
                assert_eq!(machine.graph(), [processors]);
                assert!(machine.bridges[0].share.is_alone());
            }
        }
    }

    #[test]
    fn the_first_graph_beside_another_process_ends_the_spinning() {
        let mut machine = Machine::new(2, 1, 1);
        machine.graph();
        assert!(!machine.bridges[0].share.is_alone());
    }

    #[test]
    fn a_busy_process_gets_its_processor_within_three_graphs_for_good() {
        for processors in [2, 8, 64] {
            let mut machine = Machine::new(processors, 1, 1);
            machine.graphs(3);
            for _ in 0..1000 {
                assert_eq!(machine.graph(), [processors - 1]);
            }
        }
    }

    #[test]
    fn two_and_three_bridges_on_two_processors_have_a_thread_each_and_stay_so() {
        for bridges in [2, 3] {
            let mut machine = Machine::new(2, bridges, 0);
            machine.graphs(3);
            for _ in 0..1000 {
                assert_eq!(machine.graph(), vec![1; bridges]);
            }
        }
    }

    #[test]
    fn two_bridges_on_a_large_machine_share_it_and_do_not_swing() {
        for processors in [8, 64, 128] {
            let mut machine = Machine::new(processors, 2, 0);
            machine.graphs(100);
            let settled = machine.threads();
            let sum = settled.iter().sum::<u32>();
            assert!(sum <= processors + 1, "{settled:?} of {processors}");
            assert!(10 * sum >= 9 * processors, "{settled:?} of {processors}");
            for _ in 0..1000 {
                let now = machine.graph();
                for (now, settled) in now.iter().zip(&settled) {
                    assert!(now.abs_diff(*settled) <= 1, "{now} after {settled}");
                    // As threads are whole, one may be missing.
                    assert!(10 * (now + 1) >= 4 * sum, "{now} of {sum}");
                }
            }
        }
    }

    #[test]
    fn a_bridge_that_is_left_alone_has_all_processors_within_fifty_graphs() {
        for processors in [2, 3, 8, 64, 256] {
            let mut machine = Machine::new(processors, 2, 1);
            machine.graphs(500);
            machine.bridges[1].works = false;
            machine.busy = 0;
            assert_eq!(machine.graphs(50)[0], processors, "of {processors}");
            assert!(machine.bridges[0].share.is_alone());
        }
    }

    #[test]
    fn more_busy_processes_than_processors_leave_one_thread() {
        let mut machine = Machine::new(4, 1, 100);
        assert_eq!(machine.graphs(10), [1]);
    }

    #[test]
    fn a_thread_that_runs_now_and_then_takes_no_processor_away() {
        let mut share = CpuShare::new(2, 2);
        for graph in 0..1000 {
            let passes = u32::from(graph % 8 == 0);
            share.learn(2, 2 + passes);
            assert_eq!(share.threads(), 2, "graph {graph}");
        }
    }

    #[test]
    fn a_part_of_a_machine_is_all_that_is_used_of_it() {
        // Four processors of 64, as in a container that sees the load of its host.
        let mut share = CpuShare::new(64, 4);
        for _ in 0..100 {
            share.learn(4, 4 + 50);
            assert_eq!(share.threads(), 4);
        }
        for _ in 0..100 {
            share.learn(share.threads(), share.threads() + 62);
        }
        assert_eq!(share.threads(), 2);
    }

    #[test]
    fn after_a_long_pause_one_sample_is_enough() {
        let mut share = CpuShare::new(8, 8);
        (0..100).for_each(|_| share.learn(share.threads(), share.threads() + 7));
        assert_eq!(share.threads(), 1);
        share.resume(0, true);
        assert_eq!(share.threads(), 8);
        assert!(share.is_alone());
        share.resume(8, true);
        assert!(share.threads() < 8, "{} threads", share.threads());
        assert!(!share.is_alone());
    }
}
