//! The number of threads that llama.cpp computes with, for each step: what was asked for, or what is
//! best for all processes of the machine.

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use crate::openmp;
use crate::tuning::cpu_share::CpuShare;
use crate::tuning::thread_tuner::ThreadTuner;
use llama_cpp_bridge::shared::settings::SPIN_VARIABLES;
use llama_cpp_bridge::shared::settings::{ModelParams, processors};

/// How often a thread spins before it sleeps if it is alone on its processor: some milliseconds, so
/// that none sleeps in the middle of a graph or between two.
const LONG_SPIN: u32 = 100_000;

/// The same beside other processes, where it would keep those that it waits for from running.
const SHORT_SPIN: u32 = 1_000;

/// A step of this many tokens takes all threads: it computes more than it waits.
const ALL_THREADS: usize = 64;

/// A longer time between two steps means that there was nothing to do.
const PAUSE: Duration = Duration::from_millis(5);

/// How often, and how far apart, the runnable threads of others are counted before a step, if they are
/// too many: the client that sent the work, and threads that spin, will soon be asleep.
const SAMPLES: u32 = 10;
const SAMPLE_INTERVAL: Duration = Duration::from_micros(500);

/// After a longer pause than this, what was known of other processes no longer counts.
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// The numbers of threads that llama.cpp asks OpenMP for.
#[derive(Clone, Copy)]
pub struct RequestedThreads {
    /// For a step of one token.
    pub single: u32,
    /// For one of several.
    pub batch: u32,
}

/// The number of threads of each step.
pub struct Threads {
    /// Steps that ask for this many threads follow the load of the machine; none asks for 0.
    adaptive: u32,
    requested: RequestedThreads,
    max_threads: u32,
    cpu_share: CpuShare,
    tuner: ThreadTuner,
    /// Whether the spinning is ours to set: no environment variable of OpenMP's says otherwise.
    sets_spin: bool,
    /// Tokens of the step under way, and whether the tuner may compare it with the last one.
    n_tokens: usize,
    comparable: bool,
    started: Instant,
    ended: Instant,
}

/// What a model that is loaded with these parameters asks OpenMP for. A number that the user has fixed
/// differs from one that is adaptive, so that they can be distinguished.
pub fn requested_threads(load: &ModelParams) -> RequestedThreads {
    let all = processors();
    let auto = match (load.threads, load.threads_batch) {
        (Some(fixed), None) | (None, Some(fixed)) if fixed == all && openmp::HOOKED => all + 1,
        _ => all,
    };
    RequestedThreads {
        single: load.threads.unwrap_or(auto),
        batch: load.threads_batch.unwrap_or(auto),
    }
}

impl Threads {
    /// For a model that is loaded with these parameters.
    pub fn new(load: &ModelParams) -> Self {
        openmp::watch();
        let requested = requested_threads(load);
        let adaptive = match (load.threads, load.threads_batch) {
            (None, _) => requested.single,
            (_, None) => requested.batch,
            _ => 0,
        };
        let max_threads = match adaptive {
            0 => requested.single.max(requested.batch),
            _ => processors(),
        };
        let online = openmp::processors().unwrap_or(max_threads);
        let now = Instant::now();
        let mut threads = Self {
            adaptive,
            requested,
            max_threads,
            cpu_share: CpuShare::new(online, max_threads),
            tuner: ThreadTuner::new(max_threads),
            sets_spin: SPIN_VARIABLES
                .iter()
                .all(|name| env::var_os(name).is_none()),
            n_tokens: 0,
            comparable: false,
            started: now,
            ended: now,
        };
        threads.count_others(true);
        threads.set_spin();
        openmp::limit(adaptive, threads.cpu_share.threads());
        threads
    }

    /// Finds the fastest number of threads by `step`, which evaluates one token; not beside other
    /// processes.
    ///
    /// # Errors
    /// Those of `step`.
    pub fn tune(&mut self, mut step: impl FnMut() -> Result<(), String>) -> Result<(), String> {
        let adaptive = self.adaptive;
        if !openmp::HOOKED || adaptive != self.requested.single || !self.cpu_share.is_alone() {
            return Ok(());
        }
        self.tuner.find(|threads| {
            openmp::limit(adaptive, threads);
            let start = Instant::now();
            step()?;
            Ok(start.elapsed())
        })
    }

    /// Before a step of `n_tokens`.
    pub fn before(&mut self, n_tokens: usize) {
        let pause = self.ended.elapsed();
        if pause > PAUSE {
            self.count_others(pause > LONG_PAUSE);
        }
        self.set_spin();
        let requested = match n_tokens {
            1 => self.requested.single,
            _ => self.requested.batch,
        };
        self.comparable = false;
        if requested == self.adaptive {
            let share = self.cpu_share.threads();
            let best = match n_tokens < ALL_THREADS {
                true => self.tuner.threads(self.cpu_share.is_alone()),
                false => self.max_threads,
            };
            self.comparable = n_tokens < ALL_THREADS && n_tokens == self.n_tokens && best <= share;
            openmp::limit(self.adaptive, best.min(share));
        }
        self.n_tokens = n_tokens;
        self.started = Instant::now();
    }

    /// After a step. Returns how long it took.
    pub fn after(&mut self) -> Duration {
        self.ended = Instant::now();
        let took = self.ended - self.started;
        if let Some(sample) = openmp::sample() {
            self.cpu_share.learn(sample.team, sample.runnable);
        }
        self.tuner.learn(took, self.comparable);
        took
    }

    /// The part of its threads that a step of many tokens gets now.
    pub fn part(&self) -> f64 {
        match self.requested.batch == self.adaptive {
            true => f64::from(self.cpu_share.threads()) / f64::from(self.max_threads),
            false => 1.0,
        }
    }

    /// Counts the runnable threads of others before the first step after a pause; `reset` after a
    /// long one.
    fn count_others(&mut self, reset: bool) {
        let others = || openmp::runnable().map(|runnable| runnable.saturating_sub(1));
        let Some(mut fewest) = others() else {
            return;
        };
        for _ in 1..SAMPLES {
            if self.cpu_share.fits_beside(fewest) {
                break;
            }
            thread::sleep(SAMPLE_INTERVAL);
            fewest = fewest.min(others().unwrap_or(fewest));
        }
        self.cpu_share.resume(fewest, reset);
    }

    fn set_spin(&self) {
        if self.sets_spin {
            openmp::spin(match self.cpu_share.is_alone() {
                true => LONG_SPIN,
                false => SHORT_SPIN,
            });
        }
    }
}
