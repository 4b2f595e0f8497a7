//! Writes the answers in order, and shows how far the work is.

use std::io::{self, IsTerminal};

use super::answer::Answer;
use super::progress::Progress;
use super::queue::Next;
use super::work::Work;
use crate::cli::Options;
use crate::failure::{self, Failure};
use crate::output;

/// Writes the answers in order, and shows on a terminal how far the work is.
pub fn write(work: &Work) -> Result<(), Failure> {
    let mut progress = Progress::new();
    let mut writer = Writer::default();
    let tick = progress.is_shown().then_some(Progress::TICK);
    loop {
        progress.show(|| work.queue.count());
        match work.queue.next(tick) {
            Next::Answer(index, answer) => {
                if io::stdout().is_terminal() || answer.error.is_some() {
                    progress.clear();
                }
                writer.write(index, answer, &work.options)?;
            }
            Next::Message(message) => {
                progress.clear();
                output::report(&message);
            }
            Next::Pending => {}
            Next::Done => break,
            // Answers after the first gap are dropped: whoever continues there asks them again.
            Next::Deserted => {
                progress.clear();
                writer.note_cut();
                output::report(&format!(
                    "no bridge left: lines from {} on are unanswered",
                    writer.written + 1
                ));
                return Err(Failure::Reported(work.queue.failed().max(failure::FAILED)));
            }
        }
    }
    progress.clear();
    writer.note_cut();
    if let Some(problem) = work.queue.problem() {
        return Err(Failure::Usage(problem));
    }
    failure::reported(writer.worst)
}

/// Counts what it writes.
#[derive(Default)]
struct Writer {
    written: usize,
    /// The worst exit status of an error.
    worst: u8,
    cut: usize,
}

impl Writer {
    fn write(&mut self, index: usize, answer: Answer, options: &Options) -> Result<(), Failure> {
        if let Some((message, status)) = &answer.error {
            self.worst = self.worst.max(*status);
            output::report(&format!("line {}: {message}", index + 1));
        }
        self.cut += usize::from(answer.cut);
        self.written = index + 1;
        output::print(&answer.shown(options))
    }

    fn note_cut(&self) {
        if self.cut > 0 {
            output::report(&format!(
                "{} of {} answers were cut off at the bridge's token limit (-n raises it)",
                self.cut, self.written
            ));
        }
    }
}
