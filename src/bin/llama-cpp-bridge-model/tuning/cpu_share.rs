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

#[cfg(test)]
mod tests {
    //! The rules, played on imagined machines: no thread runs here, and no time passes.

    use super::CpuShare;

    /// A bridge at work: its share, and whether it has a graph to compute.
    struct Player {
        share: CpuShare,
        works: bool,
    }

    /// A machine with bridges on it, which take their samples one after the other.
    struct Machine {
        bridges: Vec<Player>,
        /// Threads of other programs that always run.
        busy: u32,
    }

    impl Machine {
        fn new(processors: u32, bridges: usize, busy: u32) -> Machine {
            let player = || Player {
                share: CpuShare::new(processors, processors),
                works: true,
            };
            Machine {
                bridges: (0..bridges).map(|_| player()).collect(),
                busy,
            }
        }

        /// All that work compute a graph, and learn from what runs at its end.
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
                assert!(machine.bridges[0].share.alone());
            }
        }
    }

    #[test]
    fn the_first_graph_in_company_ends_the_spinning() {
        let mut machine = Machine::new(2, 1, 1);
        machine.graph();
        assert!(!machine.bridges[0].share.alone());
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
    fn a_bridge_whose_company_goes_has_all_processors_within_fifty_graphs() {
        for processors in [2, 3, 8, 64, 256] {
            let mut machine = Machine::new(processors, 2, 1);
            machine.graphs(500);
            machine.bridges[1].works = false;
            machine.busy = 0;
            assert_eq!(machine.graphs(50)[0], processors, "of {processors}");
            assert!(machine.bridges[0].share.alone());
        }
    }

    #[test]
    fn more_company_than_processors_leaves_one_thread() {
        let mut machine = Machine::new(4, 1, 100);
        assert_eq!(machine.graphs(10), [1]);
    }

    #[test]
    fn a_thread_that_passes_by_now_and_then_takes_no_processor_away() {
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
    fn after_a_long_rest_one_look_at_the_machine_is_enough() {
        let mut share = CpuShare::new(8, 8);
        (0..100).for_each(|_| share.learn(share.threads(), share.threads() + 7));
        assert_eq!(share.threads(), 1);
        share.begin(0, true);
        assert_eq!(share.threads(), 8);
        assert!(share.alone());
        share.begin(8, true);
        assert!(share.threads() < 8, "{} threads", share.threads());
        assert!(!share.alone());
    }
}
