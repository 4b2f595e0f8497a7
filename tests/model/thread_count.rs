//! The rules by which the number of threads follows the machine, played on machines that are
//! counted out: no thread runs here, and no time passes.

use std::time::Duration;

use crate::cpu_share::CpuShare;
use crate::thread_count::ThreadTuner;

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
