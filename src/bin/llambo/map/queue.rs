//! The lines of `map` between the thread that reads them, those that ask the bridges, and the
//! one that writes the answers in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::answer::Answer;
use crate::failure::Failure;

/// Bytes of lines that may wait. Enough to know the length of most inputs early, and so the time
/// left; not so much that an endless input fills the memory.
const WAITING_BYTES: usize = 16 * 1024 * 1024;

/// How many lines past the next answer to be written may be asked, so that answers do not pile up
/// in memory after one line that takes very long.
const AHEAD: usize = 10_000;

/// After this many failures on a line, the failure becomes its answer: a prompt that kills any model
/// would otherwise go round until no bridge is left.
const ATTEMPTS: usize = 2;

/// A line on its way to a bridge.
#[derive(Debug)]
pub struct Line {
    /// Its number, from 0.
    pub index: usize,
    /// The prompt.
    pub text: String,
    /// How often a bridge failed while working on this line alone.
    attempts: usize,
    /// Whether a bridge failed while working on this line among others. From then on it is asked
    /// alone, so that no line is blamed for another.
    pub suspect: bool,
    /// The number of the bridge that failed last while working on this line.
    failed_at: Option<usize>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Line>,
    waiting_bytes: usize,
    /// Lines read so far.
    read: usize,
    /// True once the input has ended.
    ended: bool,
    /// Why the input could not be read to its end, if so.
    problem: Option<String>,
    /// Bridges that are connected: each takes lines as long as there are any.
    connected: usize,
    answers: BTreeMap<usize, Answer>,
    /// What the user should know of the bridges.
    messages: VecDeque<String>,
    /// Answers that were written, all those before this number.
    written: usize,
    /// Threads that still ask.
    bridges: usize,
    /// The worst exit status of a bridge that failed.
    failed: u8,
}

/// Lines, answers, and who waits for them.
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

/// What the writer gets.
pub enum Next {
    /// The answer to the line of this number.
    Answer(usize, Answer),
    /// A message about a bridge.
    Message(String),
    /// Nothing yet.
    Pending,
    /// All lines are answered and written.
    Done,
    /// No bridge is left.
    Deserted,
}

/// How far the work is.
pub struct Count {
    /// Lines that were answered.
    pub done: usize,
    /// How many lines there are, once that is known.
    pub total: Option<usize>,
}

impl Queue {
    /// An empty queue, served by this many threads.
    pub fn new(bridges: usize) -> Self {
        Queue {
            state: Mutex::new(State {
                bridges,
                ..State::default()
            }),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panics ends the process, so that no lock is ever poisoned.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds a line, once there is room for it, or the answer to one that cannot be asked.
    pub fn push(&self, line: Result<String, Answer>) {
        let mut state = self.state();
        while state.waiting_bytes > WAITING_BYTES || state.read > state.written + 10 * AHEAD {
            state = self.wait(state);
        }
        let index = state.read;
        state.read += 1;
        match line {
            Ok(text) => {
                state.waiting_bytes += text.len();
                state.waiting.push_back(Line {
                    index,
                    text,
                    attempts: 0,
                    suspect: false,
                    failed_at: None,
                });
            }
            Err(answer) => drop(state.answers.insert(index, answer)),
        }
        self.changed.notify_all();
    }

    /// Notes that no line follows, and why if the input failed.
    pub fn end(&self, problem: Option<String>) {
        let mut state = self.state();
        state.ended = true;
        state.problem = problem;
        self.changed.notify_all();
    }

    /// Waits until there is a line for the bridge of this number. False once there will be none, not
    /// even one that another bridge leaves unfinished.
    pub fn wait_for_line(&self, bridge: usize) -> bool {
        let mut state = self.state();
        loop {
            if state.is_ready(bridge, state.connected) {
                return true;
            }
            if state.ended && state.done() == state.read {
                return false;
            }
            state = self.wait(state);
        }
    }

    /// Notes that a bridge is connected. Only those take lines.
    pub fn connected(&self) {
        self.state().connected += 1;
    }

    /// Notes that a bridge is disconnected.
    pub fn disconnected(&self) {
        self.state().connected -= 1;
        self.changed.notify_all();
    }

    /// Takes a line for the bridge of this number if there is one; `alone` if the bridge has no other.
    pub fn take(&self, bridge: usize, alone: bool) -> Option<Line> {
        let mut state = self.state();
        if !state.is_ready(bridge, state.connected - 1)
            || (state.waiting.front()?.suspect && !alone)
        {
            return None;
        }
        let line = state.waiting.pop_front()?;
        state.waiting_bytes -= line.text.len();
        self.changed.notify_all();
        Some(line)
    }

    /// Adds the answer to a line that was taken.
    pub fn answer(&self, line: &Line, answer: Answer) {
        let mut state = self.state();
        state.answers.insert(line.index, answer);
        self.changed.notify_all();
    }

    /// Returns lines that the bridge of this number left unfinished; it was working on the first
    /// `parallel` of them.
    pub fn give_back(
        &self,
        lines: VecDeque<Line>,
        bridge: usize,
        parallel: usize,
        failure: &Failure,
    ) {
        let mut state = self.state();
        let at_work = parallel.min(lines.len());
        for (position, mut line) in lines.into_iter().enumerate().rev() {
            line.attempts += usize::from(position == 0 && at_work == 1);
            if position < at_work {
                line.suspect = true;
                line.failed_at = Some(bridge);
            }
            if line.attempts == ATTEMPTS {
                let message = format!("a bridge failed {ATTEMPTS} times on this line: {failure}");
                let answer = Answer::client_error(message);
                state.answers.insert(line.index, answer);
            } else {
                state.waiting_bytes += line.text.len();
                state.waiting.push_front(line);
            }
        }
        self.changed.notify_all();
    }

    /// Adds a message for the user.
    pub fn report(&self, message: String) {
        self.state().messages.push_back(message);
        self.changed.notify_all();
    }

    /// Notes that a thread has ended; if its bridge failed, with a message and an exit status.
    pub fn retire(&self, failed: Option<(String, u8)>) {
        let mut state = self.state();
        state.bridges -= 1;
        if let Some((message, status)) = failed {
            state.messages.push_back(message);
            state.failed = state.failed.max(status);
        }
        self.changed.notify_all();
    }

    /// The next message, or the next answer in order; waits for it, at most for `time`.
    pub fn next(&self, time: Option<Duration>) -> Next {
        let mut state = self.state();
        let mut waited = false;
        loop {
            if let Some(message) = state.messages.pop_front() {
                return Next::Message(message);
            }
            let index = state.written;
            if let Some(answer) = state.answers.remove(&index) {
                state.written += 1;
                self.changed.notify_all();
                return Next::Answer(index, answer);
            }
            if state.ended && state.written == state.read {
                return Next::Done;
            }
            if state.bridges == 0 {
                return Next::Deserted;
            }
            if waited {
                return Next::Pending;
            }
            state = match time {
                None => self.wait(state),
                Some(time) => {
                    waited = true;
                    let outcome = self.changed.wait_timeout(state, time);
                    outcome.unwrap_or_else(|poisoned| poisoned.into_inner()).0
                }
            };
        }
    }

    /// How far the work is.
    pub fn count(&self) -> Count {
        let state = self.state();
        Count {
            done: state.done(),
            total: state.ended.then_some(state.read),
        }
    }

    /// The worst exit status of a bridge that failed; 0 if none did.
    pub fn failed(&self) -> u8 {
        self.state().failed
    }

    /// Why the input could not be read to its end, if so.
    pub fn problem(&self) -> Option<String> {
        self.state().problem.take()
    }
}

impl State {
    /// How many lines were answered, written or not.
    fn done(&self) -> usize {
        self.written + self.answers.len()
    }

    /// Whether the bridge of this number may take a line. One on which it failed itself is left to
    /// others that are connected: the bridge may be at fault, not the line.
    fn is_ready(&self, bridge: usize, others: usize) -> bool {
        self.waiting.front().is_some_and(|line| {
            let failed = line.failed_at == Some(bridge) && others > 0;
            line.index < self.written + AHEAD && !failed
        })
    }
}
