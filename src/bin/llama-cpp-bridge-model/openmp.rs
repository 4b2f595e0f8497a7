//! GCC's OpenMP, which runs llama.cpp's threads: how many it starts for a graph, and how long they
//! spin before they sleep. llama.cpp fixes both when a context is made; but it asks for its threads
//! again for every graph, and takes as many as it gets.
//!
//! With another OpenMP (`cfg(openmp_in_hand)` is not set), nothing here has any effect.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use llama_cpp_bridge::sys;

/// The last [`Sample`]; a team of 0 means that there is no new one.
static TEAM: AtomicU32 = AtomicU32::new(0);
static RUNNABLE: AtomicU32 = AtomicU32::new(0);

/// `/proc/loadavg`, once [`watch`] has been called.
static LOAD: OnceLock<File> = OnceLock::new();

/// Microseconds between two samples, at least: taking one costs 1 to 2.
const SAMPLE_TIME: u64 = 1000;

/// What was seen at the end of a graph.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Threads that computed it, all of them runnable at that moment: they spin before they sleep.
    pub team: u32,
    /// Runnable threads of the whole machine.
    pub runnable: u32,
}

/// Whether the functions here have an effect.
pub const HOOKED: bool = cfg!(openmp_in_hand);

/// Takes a [`Sample`] at the end of graphs from now on. The file stays open, so that it can be read
/// by a process that may no longer open any.
pub fn watch() {
    if HOOKED && let Ok(file) = File::open("/proc/loadavg") {
        let _ = LOAD.set(file);
        gnu::after_graph(take_sample);
    }
}

/// From now on, graphs that ask for `asked` threads get at most `limit`; others get what they ask
/// for. `asked` is 2 or more: graphs of one thread ask for none.
pub fn limit(asked: u32, limit: u32) {
    gnu::limit(asked, limit.max(1));
}

/// The last sample, once; `None` if there is none that is new.
pub fn sample() -> Option<Sample> {
    let team = TEAM.swap(0, Ordering::Relaxed);
    (team > 0).then(|| Sample {
        team,
        runnable: RUNNABLE.load(Ordering::Relaxed),
    })
}

/// Runnable threads of the whole machine, this one included; `None` if the system does not say, or
/// [`watch`] was not called.
pub fn runnable() -> Option<u32> {
    let mut text = [0; 128];
    let length = LOAD.get()?.read_at(&mut text, 0).ok()?;
    // As in `0.31 0.20 0.18 2/97 25810`.
    let text = str::from_utf8(&text[..length]).ok()?;
    let (runnable, _) = text.split_ascii_whitespace().nth(3)?.split_once('/')?;
    // A system that hides its load says 0, though at least the reader runs.
    runnable.parse().ok().filter(|count| *count > 0)
}

/// Online processors of the whole machine, since [`runnable`] counts all of it, too; `None` if the
/// system does not say.
pub fn processors() -> Option<u32> {
    let count = sys::process::configured(libc::_SC_NPROCESSORS_ONLN)?;
    u32::try_from(count).ok().filter(|count| *count > 0)
}

/// From now on, threads spin this many times before they sleep.
pub fn spin(times: u32) {
    gnu::spin(times);
}

/// Takes a sample if the last one is old enough; runs on the thread that led the graph.
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

#[cfg(not(openmp_in_hand))]
mod gnu {
    pub(super) fn limit(_: u32, _: u32) {}
    pub(super) fn spin(_: u32) {}
    pub(super) fn after_graph(_: fn(u32)) {}
}
