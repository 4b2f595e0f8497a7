//! The threads that llama.cpp computes with, from step to step: as many as were asked for, or as
//! many as are good for everyone on the machine.

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use crate::openmp;
use crate::tuning::cpu_share::CpuShare;
use crate::tuning::thread_tuner::ThreadTuner;
use llama_cpp_bridge::shared::settings::SPIN_VARIABLES;
use llama_cpp_bridge::shared::settings::{ModelParams, processors};

/// How often a thread looks for work before it sleeps, alone on its processors: some milliseconds,
/// so that none sleeps in the middle of a graph or between two.
const LONG: u32 = 100_000;

/// The same in company, where it would keep those that it waits for from running.
const LITTLE: u32 = 1_000;

/// A step of so many tokens takes all threads: what it computes is more than the waiting.
const MANY: usize = 64;

/// Between two steps there is less time than this, unless there was nothing to do.
const PAUSE: Duration = Duration::from_millis(5);

/// How often, and how far apart, the others are counted before a step, where they leave too little:
/// who has just brought the work, and threads that look for more of their own, are soon asleep.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_micros(500);

/// A rest after which the others are counted anew.
const REST: Duration = Duration::from_secs(1);

/// What llama.cpp is to ask OpenMP for.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    /// For a step of one token.
    pub(crate) single: u32,
    /// For one of several.
    pub(crate) batch: u32,
}

/// The number of threads of each step.
pub(crate) struct Threads {
    /// What steps ask for that follow the machine's load; no step asks for 0.
    follows: u32,
    asked: Asked,
    most: u32,
    share: CpuShare,
    gain: ThreadTuner,
    /// Whether the user leaves the spinning to us.
    spins: bool,
    /// Of the step under way, and whether it is one to compare with the last.
    tokens: usize,
    gains: bool,
    begun: Instant,
    ended: Instant,
}

/// What a model that is loaded like this asks OpenMP for. A number that is fixed differs from one
/// that is not, which is how they are told apart.
pub(crate) fn asked(load: &ModelParams) -> Asked {
    let most = processors();
    let auto = match (load.threads, load.threads_batch) {
        (Some(fixed), None) | (None, Some(fixed)) if fixed == most && openmp::HOOKED => most + 1,
        _ => most,
    };
    Asked {
        single: load.threads.unwrap_or(auto),
        batch: load.threads_batch.unwrap_or(auto),
    }
}

impl Threads {
    /// For a model that is loaded like this.
    pub(crate) fn new(load: &ModelParams) -> Self {
        openmp::watch();
        let asked = asked(load);
        let follows = match (load.threads, load.threads_batch) {
            (None, _) => asked.single,
            (_, None) => asked.batch,
            _ => 0,
        };
        let most = match follows {
            0 => asked.single.max(asked.batch),
            _ => processors(),
        };
        let now = Instant::now();
        let mut threads = Self {
            follows,
            asked,
            most,
            share: CpuShare::new(openmp::processors().unwrap_or(most), most),
            gain: ThreadTuner::new(most),
            spins: SPIN_VARIABLES
                .iter()
                .all(|name| env::var_os(name).is_none()),
            tokens: 0,
            gains: false,
            begun: now,
            ended: now,
        };
        threads.look_around(true);
        threads.set_spin();
        openmp::limit(follows, threads.share.threads());
        threads
    }

    /// Finds out how many threads are quickest by `token`, which evaluates one; in company that
    /// cannot be seen.
    ///
    /// # Errors
    /// Those of `token`.
    pub(crate) fn find(
        &mut self,
        mut token: impl FnMut() -> Result<(), String>,
    ) -> Result<(), String> {
        let follows = self.follows == self.asked.single;
        if !openmp::HOOKED || !follows || !self.share.alone() {
            return Ok(());
        }
        let follows = self.follows;
        self.gain.find(|threads| {
            openmp::limit(follows, threads);
            let start = Instant::now();
            token()?;
            Ok(start.elapsed())
        })
    }

    /// Before a step of so many tokens.
    pub(crate) fn before(&mut self, tokens: usize) {
        let rest = self.ended.elapsed();
        if rest > PAUSE {
            self.look_around(rest > REST);
        }
        self.set_spin();
        let asks = match tokens {
            1 => self.asked.single,
            _ => self.asked.batch,
        };
        self.gains = false;
        if asks == self.follows {
            let room = self.share.threads();
            let best = match tokens < MANY {
                true => self.gain.threads(self.share.alone()),
                false => self.most,
            };
            self.gains = tokens < MANY && tokens == self.tokens && best <= room;
            openmp::limit(self.follows, best.min(room));
        }
        self.tokens = tokens;
        self.begun = Instant::now();
    }

    /// After it. Returns how long it took.
    pub(crate) fn after(&mut self) -> Duration {
        self.ended = Instant::now();
        let took = self.ended - self.begun;
        if let Some(sample) = openmp::sample() {
            self.share.learn(sample.team, sample.runnable);
        }
        self.gain.learn(took, self.gains);
        took
    }

    /// The part of its threads that a long step gets now.
    pub(crate) fn part(&self) -> f64 {
        match self.asked.batch == self.follows {
            true => f64::from(self.share.threads()) / f64::from(self.most),
            false => 1.0,
        }
    }

    /// Counts the others before the first step after a rest; `anew` where it was a long one.
    fn look_around(&mut self, anew: bool) {
        let others = || openmp::runnable().map(|runnable| runnable.saturating_sub(1));
        let Some(mut least) = others() else {
            return;
        };
        for _ in 1..LOOKS {
            if self.share.leave_room(least) {
                break;
            }
            thread::sleep(BETWEEN_LOOKS);
            least = least.min(others().unwrap_or(least));
        }
        self.share.begin(least, anew);
    }

    fn set_spin(&self) {
        if self.spins {
            openmp::spin(match self.share.alone() {
                true => LONG,
                false => LITTLE,
            });
        }
    }
}
