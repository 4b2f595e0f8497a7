//! How long each test takes, for the summary at the end of `inferno/deploy.sh test`: the stable test
//! harness says it of none.

use std::fs::OpenOptions;
use std::io::Write;
use std::thread;
use std::time::Instant;

/// Names the file to which each test adds a line with its seconds and its name.
const FILE: &str = "LLAMA_CPP_BRIDGE_TEST_TIMES";

struct Timer {
    test: Option<String>,
    start: Instant,
}

impl Drop for Timer {
    fn drop(&mut self) {
        let Some((test, file)) = self.test.as_ref().zip(std::env::var_os(FILE)) else {
            return;
        };
        let line = format!("{:.3} {test}\n", self.start.elapsed().as_secs_f64());
        // One write: others add their lines at the same time. A lost line fails no test.
        if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(file) {
            let _ = file.write_all(line.as_bytes());
        }
    }
}

thread_local! {
    // Each test has a thread of its own, with whose end its time ends, whether it failed or not.
    static TIMER: Timer = Timer {
        // The threads that a test starts have no name.
        test: thread::current().name().filter(|name| name.contains("::")).map(String::from),
        start: Instant::now(),
    };
}

/// Has the time of the test that calls it run, if it does not yet.
pub(crate) fn start() {
    TIMER.with(|_| ());
}
