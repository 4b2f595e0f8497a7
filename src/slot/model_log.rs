//! What the bridge reads from the standard error of the model process: llama.cpp's log, marked line
//! by line by the process, and between it the last words of a process that aborts, which nobody can
//! mark. However much it writes, and whatever: what is read, kept and logged of it is bounded.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::fd_passing::PathAlias;
use super::rate::Rate;
use llama_cpp_bridge::sys::log::{self, ERROR_MARK, Level, OTHER_MARK, WARNING_MARK};
use llama_cpp_bridge::sys::poll::PollFd;

/// Longest line that is kept, in bytes; llama.cpp's own assertions are far shorter.
const LINE_LIMIT: usize = 1000;

/// Bytes that are read in one turn of the loop.
const TURN_BYTES: usize = 64 * 1024;

/// Bytes that are read at once, and a second from then on; a process that writes more waits. The
/// whole log of a load is some hundred kilobytes.
const BYTES: (u32, u32) = (1 << 20, 1 << 20);

/// Bytes that are read of a process that is gone: more than its socket can hold.
const LAST_BYTES: usize = 1 << 20;

/// Lines that are logged at once, and a second from then on. llama.cpp logs up to some thousand as
/// it loads a model.
const LINES: (u32, u32) = (4096, 200);

/// Bytes of them, as they are logged: a name that is put in for an alias, or a control character that is
/// written out, makes a line longer than it was read.
const LOGGED: (u32, u32) = (4 << 20, 128 << 10);

/// How often at most it is logged how many lines were not.
const REPORT_PAUSE: Duration = Duration::from_secs(1);

/// The standard error of a model process.
pub struct ModelLog {
    /// `None` once it is closed.
    stream: Option<UnixStream>,
    bytes: Rate,
    /// Nothing is read before that.
    paused: Option<Instant>,
    lines: Lines,
}

/// Its lines.
struct Lines {
    verbose: bool,
    /// What its model is called.
    alias: PathAlias,
    line: Vec<u8>,
    /// Bytes that the line has, those that are not kept included.
    length: usize,
    first_error: Option<String>,
    cause: Option<String>,
    rate: Rate,
    logged: Rate,
    /// Lines that were to be logged and were not, and when that is reported.
    dropped: u64,
    report_at: Option<Instant>,
}

impl ModelLog {
    /// The log that comes from this stream, of a process that knows its model by an alias. The whole
    /// of it is passed on to standard error if it is to be `verbose`.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn new(stream: UnixStream, alias: PathAlias, verbose: bool) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: Some(stream),
            bytes: Rate::new(BYTES.0, BYTES.1),
            paused: None,
            lines: Lines {
                verbose,
                alias,
                line: Vec::new(),
                length: 0,
                first_error: None,
                cause: None,
                rate: Rate::new(LINES.0, LINES.1),
                logged: Rate::new(LOGGED.0, LOGGED.1),
                dropped: 0,
                report_at: None,
            },
        })
    }

    /// What to wait for, if it is waited for.
    pub fn poll(&self) -> Option<PollFd<'_>> {
        let stream = self.stream.as_ref().filter(|_| self.paused.is_none());
        stream.map(|stream| PollFd::readable(stream.as_fd()))
    }

    /// Reads some of what has come.
    pub fn read(&mut self, now: Instant) {
        if self.paused.is_none() {
            let count = self.read_up_to(TURN_BYTES, now);
            self.bytes.spend(count, now);
            self.paused = self.bytes.exhausted_until(now);
        }
    }

    /// Reads all that has come from a process that will write no more, or is to be waited for no
    /// longer.
    pub fn read_last(&mut self, now: Instant) {
        self.read_up_to(LAST_BYTES, now);
    }

    fn read_up_to(&mut self, limit: usize, now: Instant) -> usize {
        let mut chunk = [0; 16 * 1024];
        let mut total = 0;
        while total < limit
            && let Some(stream) = &mut self.stream
        {
            match stream.read(&mut chunk) {
                Ok(0) => self.stream = None,
                Ok(count) => {
                    self.lines.push(&chunk[..count], now);
                    total += count;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => (),
                    io::ErrorKind::WouldBlock => break,
                    _ => self.stream = None,
                },
            }
        }
        total
    }

    /// Goes on after a pause, and reports lines that were not logged; returns when to call this
    /// again.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        self.paused = self.paused.filter(|until| now < *until);
        if self.lines.report_at.is_some_and(|at| at <= now) {
            self.lines.report_dropped();
        }
        self.paused.into_iter().chain(self.lines.report_at).min()
    }

    /// The first error that was logged since [`forget`](Self::forget): those that follow are
    /// ever more general.
    pub fn first_error(&self) -> Option<String> {
        self.lines.first_error.clone()
    }

    /// The reason to give for the death of the process: what it wrote unmarked, else the first
    /// error.
    pub fn cause(&mut self, now: Instant) -> Option<String> {
        if !self.lines.line.is_empty() {
            self.lines.push(b"\n", now);
        }
        self.lines.cause.clone().or_else(|| self.first_error())
    }

    /// Starts anew, for the next request.
    pub fn forget(&mut self) {
        self.lines.first_error = None;
        self.lines.cause = None;
    }
}

impl Drop for ModelLog {
    fn drop(&mut self) {
        self.lines.report_dropped();
    }
}

impl Lines {
    /// Takes in what the process wrote.
    fn push(&mut self, bytes: &[u8], now: Instant) {
        let mut parts = bytes.split(|&byte| byte == b'\n');
        let last = parts.next_back().unwrap_or_default();
        for part in parts {
            self.extend(part);
            self.end_line(now);
        }
        self.extend(last);
    }

    fn extend(&mut self, part: &[u8]) {
        let room = LINE_LIMIT - self.line.len();
        self.line.extend_from_slice(&part[..room.min(part.len())]);
        self.length += part.len();
    }

    fn end_line(&mut self, now: Instant) {
        let bytes = std::mem::take(&mut self.line);
        let length = std::mem::take(&mut self.length);
        let line = String::from_utf8_lossy(&bytes);
        let (level, text) = match line.as_ref() {
            line if line.starts_with(ERROR_MARK) => (Level::Error, &line[ERROR_MARK.len()..]),
            line if line.starts_with(WARNING_MARK) => (Level::Warning, &line[WARNING_MARK.len()..]),
            line if line.starts_with(OTHER_MARK) => (Level::Info, &line[OTHER_MARK.len()..]),
            line => (Level::Error, line),
        };
        let marked = text.len() < line.len();
        let mut text = log::printable(&self.alias.undo(text.trim_end()));
        if length > bytes.len() {
            text.push_str(&format!("... ({length} bytes)"));
        }
        match level {
            Level::Error if marked => {
                self.first_error.get_or_insert_with(|| text.clone());
            }
            Level::Error if !text.is_empty() => self.hear(&text),
            _ => (),
        }
        if marked || !text.is_empty() {
            self.show(level, &text, now);
        }
    }

    /// An assertion or the text of an exception explains more than the lines around it.
    fn hear(&mut self, line: &str) {
        let telling = line.contains("GGML_ASSERT") || line.trim_start().starts_with("what():");
        if telling || self.cause.is_none() {
            self.cause = Some(without_directory(line.trim_start()).to_string());
        }
    }

    fn show(&mut self, level: Level, line: &str, now: Instant) {
        if !self.verbose {
            return;
        }
        if self.may_log(line.len(), now) {
            log::write(level, line);
        } else {
            self.dropped += 1;
            self.report_at.get_or_insert(now + REPORT_PAUSE);
        }
    }

    /// Whether a line of so many bytes may be logged now, which then counts.
    fn may_log(&mut self, length: usize, now: Instant) -> bool {
        let may = self.logged.exhausted_until(now).is_none() && self.rate.take(now);
        if may {
            self.logged.spend(length, now);
        }
        may
    }

    fn report_dropped(&mut self) {
        self.report_at = None;
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            let message = format!("{dropped} lines of the model process were not logged");
            log::write(Level::Warning, &message);
        }
    }
}

/// An assertion starts with the path of the source file on the machine that built it; the name of
/// the file is enough.
fn without_directory(line: &str) -> &str {
    match line.split_once(".cpp:").or_else(|| line.split_once(".c:")) {
        Some((path, _)) => &line[path.rfind('/').map_or(0, |slash| slash + 1)..],
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_become_long_as_they_are_logged_are_fewer() {
        let (stream, _other) = UnixStream::pair().expect("a pair of sockets");
        let mut log = ModelLog::new(stream, PathAlias::default(), true).expect("a log");
        let lines = &mut log.lines;
        let now = Instant::now();
        // As `\u{1}`, and so on.
        let length = log::printable(&"\u{1}".repeat(LINE_LIMIT)).len();
        assert_eq!(length, 5 * LINE_LIMIT);
        let logged = (0..LINES.0).filter(|_| lines.may_log(length, now)).count();
        assert_eq!(logged, LOGGED.0 as usize / length + 1);
    }
}
