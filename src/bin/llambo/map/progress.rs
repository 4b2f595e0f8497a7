//! The progress of `map`, on the terminal.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use super::queue::Count;
use crate::output;

/// Returns the cursor to the start of the line and clears the line.
const CLEAR_LINE: &str = "\r\x1b[K";

/// The progress line, if standard error is a terminal and the prompts are not typed there.
pub struct Progress {
    shown: bool,
    begin: Instant,
    drawn: Option<Instant>,
}

impl Progress {
    /// The line is drawn at most this often.
    pub const TICK: Duration = Duration::from_millis(200);

    /// A line that counts from now.
    pub fn new() -> Self {
        Progress {
            shown: io::stderr().is_terminal() && !io::stdin().is_terminal(),
            begin: Instant::now(),
            drawn: None,
        }
    }

    /// True if there is a terminal to show it on.
    pub fn is_shown(&self) -> bool {
        self.shown
    }

    /// Draws the line, unless it was drawn a moment ago.
    pub fn show(&mut self, count: impl FnOnce() -> Count) {
        let fresh = self.drawn.is_some_and(|drawn| drawn.elapsed() < Self::TICK);
        if !self.shown || fresh {
            return;
        }
        self.drawn = Some(Instant::now());
        let line = line(&count(), self.begin.elapsed());
        output::show(&format!("{CLEAR_LINE}{line}"));
    }

    /// Clears the line, for text that follows.
    pub fn clear(&mut self) {
        if self.drawn.take().is_some() {
            output::show(CLEAR_LINE);
        }
    }
}

/// Lines done, rate and time left, as far as known.
fn line(count: &Count, elapsed: Duration) -> String {
    let done = match count.total {
        Some(total) => format!("{} of {total} done", count.done),
        None => format!("{} done", count.done),
    };
    if count.done == 0 {
        return done;
    }
    let rate = count.done as f64 / elapsed.as_secs_f64().max(0.001);
    match count.total {
        Some(total) => {
            let left = (total - count.done) as f64 / rate;
            format!("{done}, {rate:.1}/s, {} left", clock(left.ceil() as u64))
        }
        None => format!("{done}, {rate:.1}/s"),
    }
}

/// Seconds as minutes and seconds, with hours where there are any.
fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        return format!("{hours}:{minutes:02}:{seconds:02}");
    }
    format!("{minutes}:{seconds:02}")
}
