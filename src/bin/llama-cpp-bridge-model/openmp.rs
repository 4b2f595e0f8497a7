//! GCC's OpenMP, which runs llama.cpp's threads: how many it starts for a graph, and how long they
//! look for work before they sleep. llama.cpp fixes both when a context is made; but it asks for
//! its threads again for every graph, and takes as many as it gets.
//!
//! Where OpenMP is another (`cfg(openmp_in_hand)` is not set), nothing here has any effect.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use llama_cpp_bridge::sys;

/// A graph that asks for so many threads gets [`LIMIT`] at the most; others get what they ask for.
static LIMITED: AtomicU32 = AtomicU32::new(u32::MAX);

/// Threads.
static LIMIT: AtomicU32 = AtomicU32::new(u32::MAX);

/// What was seen after the last graph: see [`Sample`]. 0 threads is nothing new.
static TEAM: AtomicU32 = AtomicU32::new(0);
static RUNNABLE: AtomicU32 = AtomicU32::new(0);

/// Where samples are taken from, once [`watch`] has been called.
static LOAD: OnceLock<File> = OnceLock::new();

/// Microseconds between two samples at the least: each takes 1 to 2 of them.
const SAMPLE_TIME: u64 = 1000;

/// What was seen at the end of a graph.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Threads that computed it, all of them runnable at that moment: they look for more work
    /// before they sleep.
    pub(crate) team: u32,
    /// Threads on the whole machine that had a processor or waited for one.
    pub(crate) runnable: u32,
}

/// Whether the functions here have an effect.
pub(crate) const HOOKED: bool = cfg!(openmp_in_hand);

/// Takes a [`Sample`] at the end of graphs from now on. The file stays open, so that it can be read
/// by a process that may no longer open any.
pub(crate) fn watch() {
    if HOOKED && let Ok(file) = File::open("/proc/loadavg") {
        let _ = LOAD.set(file);
    }
}

/// Gives graphs that ask for `asked` threads `limit` of them at the most, from now on. `asked` is 2
/// or more; graphs of one thread ask for none.
pub(crate) fn limit(asked: u32, limit: u32) {
    LIMITED.store(asked, Ordering::Relaxed);
    LIMIT.store(limit.max(1), Ordering::Relaxed);
}

/// The last sample, once; `None` if there is none that is new.
pub(crate) fn sample() -> Option<Sample> {
    let team = TEAM.swap(0, Ordering::Relaxed);
    (team > 0).then(|| Sample {
        team,
        runnable: RUNNABLE.load(Ordering::Relaxed),
    })
}

/// Threads on the whole machine that have a processor or wait for one, this one included; `None`
/// where the system does not tell, or [`watch`] was not called.
pub(crate) fn runnable() -> Option<u32> {
    let mut text = [0; 128];
    let length = LOAD.get()?.read_at(&mut text, 0).ok()?;
    // As in `0.31 0.20 0.18 2/97 25810`.
    let text = str::from_utf8(&text[..length]).ok()?;
    let (runnable, _) = text.split_ascii_whitespace().nth(3)?.split_once('/')?;
    // A system that hides its load says 0, though at least the reader runs.
    runnable.parse().ok().filter(|count| *count > 0)
}

/// Processors of the whole machine that are switched on, as [`runnable`] counts the whole machine;
/// `None` where the system does not tell.
pub(crate) fn processors() -> Option<u32> {
    let count = sys::process::configured(libc::_SC_NPROCESSORS_ONLN)?;
    u32::try_from(count).ok().filter(|count| *count > 0)
}

/// Has threads look for work so many times before they sleep, from now on.
pub(crate) fn spin(times: u32) {
    #[cfg(openmp_in_hand)]
    gnu::spin(times);
    #[cfg(not(openmp_in_hand))]
    let _ = times;
}

/// Takes a sample, if the last one is old enough: on the thread that led the graph.
#[cfg_attr(not(openmp_in_hand), allow(dead_code))]
fn take_sample(team: u32) {
    static START: OnceLock<Instant> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = START.get_or_init(Instant::now).elapsed().as_micros() as u64;
    if now < NEXT.load(Ordering::Relaxed) {
        return;
    }
    if let Some(runnable) = runnable() {
        NEXT.store(now + SAMPLE_TIME, Ordering::Relaxed);
        RUNNABLE.store(runnable, Ordering::Relaxed);
        TEAM.store(team, Ordering::Relaxed);
    }
}

#[cfg(openmp_in_hand)]
#[allow(unsafe_code)]
mod gnu {
    include!("../../sys/gnu_openmp.rs");
}
