//! What the chapters are written with: a bridge of one's own, clients that keep a transcript,
//! models whose text is known, and a look at processes.

mod answer;
pub(crate) mod bert;
mod bridge;
mod call_filter;
mod client;
mod directory;
pub(crate) mod gguf;
mod limited;
pub(crate) mod process;
mod random;
pub(crate) mod schema;
mod smollm2;
mod stand_in;
mod times;
pub(crate) mod tiny;

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use answer::{Answer, carousel, expect_refusals, quoted};
pub(crate) use bridge::{Bridge, Ended, command, program, run, verbs};
pub(crate) use call_filter::call_filter;
pub(crate) use client::{Client, completed, failure, loaded, ok};
pub(crate) use directory::Directory;
pub(crate) use random::Random;
pub(crate) use smollm2::smollm2_or_skip;
pub(crate) use stand_in::{model_program, script, stand_in, stand_in_of};
pub(crate) use tiny::Tiny;

/// The longest that a test waits for anything. What works takes milliseconds, on a busy machine a
/// few seconds.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// How long the bridge may take to stop. It promises a second; a machine busy with the other tests
/// gets two more.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(3);

/// Waits until `condition` holds; `what` is what is waited for.
///
/// Only for what gives no event of its own, as the end of a process that is not our child.
pub(crate) fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_within(LIMIT, what, condition);
}

/// As [`wait_until`], with a limit of its own.
pub(crate) fn wait_within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a complete run may lack, by how the reason to skip begins, and why that is no fault of it.
const MAY_BE_MISSING: [(&str, &str); 13] = [
    ("no Inferno", "it is built by hand, for 32 bits"),
    ("this processor has no AMX", "few have it"),
    ("built without AMX kernels", "few processors want them"),
    ("there is no cargo-deb", "not in Debian"),
    (
        "there is no lintian",
        "only for packages, which need cargo-deb",
    ),
    ("no control group", "a container may have none to make"),
    ("no network namespace", "a container may forbid it"),
    ("no cable between", "a container may forbid it"),
    (
        "there may be no mount namespace",
        "a container may forbid it",
    ),
    (
        "no process may be traced",
        "a container may forbid ptrace(2)",
    ),
    ("the system does not", "a setting of the kernel"),
    ("there is one processor", "a small host"),
    ("only root can", "developers are other users"),
];

/// Says why a test, or a part of it, cannot run here, so that nobody takes it for passed. With `CI` or
/// `STRICT` set, only what [`MAY_BE_MISSING`] lists may be skipped.
///
/// # Panics
/// Something else is missing, and the run has to be complete.
pub(crate) fn skip(why: &str) {
    times::start();
    // Past the capture of the test harness, which shows what a passing test printed to no one.
    let name = std::thread::current()
        .name()
        .unwrap_or("a test")
        .to_string();
    let _ = writeln!(std::io::stderr(), "\nSKIPPED: {name}: {why}");
    let complete = ["CI", "STRICT"].iter().any(|name| {
        let value = std::env::var_os(name);
        value.is_some_and(|value| !value.is_empty())
    });
    let listed = MAY_BE_MISSING
        .iter()
        .any(|(start, _)| why.starts_with(start));
    assert!(
        listed || !complete,
        "a complete run may not skip this: {why}"
    );
}

/// The lines that a program writes, as they come.
pub(crate) fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = mpsc::channel();
    thread::spawn(move || {
        BufReader::new(output)
            .lines()
            .map_while(Result::ok)
            .try_for_each(|line| send.send(line))
    });
    lines
}
