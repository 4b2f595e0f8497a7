//! The log: what the bridge writes to its own standard error, and what it reads from that of the
//! model process, which is llama.cpp's log, marked line by line by the process, and between it the
//! last words of a process that aborts, which nobody can mark.

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

/// How much a message matters: syslog(3)'s level, by which the journal of systemd sorts.
#[derive(Clone, Copy)]
pub enum Level {
    /// Something failed.
    Error = 3,
    /// Something is not as it was asked for.
    Warning = 4,
    /// Something happened, as it should.
    Info = 6,
}

/// The environment variable in which systemd names what its journal is connected to, as
/// `DEVICE:INODE`.
pub const JOURNAL_VARIABLE: &str = "JOURNAL_STREAM";

/// Writes one line to standard error, as `llama-cpp-bridge: MESSAGE`. A standard error that is
/// closed does not keep the bridge from serving.
pub fn write(level: Level, text: &str) {
    let mark = if goes_to_journal() {
        format!("<{}>", level as u8)
    } else {
        String::new()
    };
    // A file's name may hold one, and is not to look like a message of its own.
    let text = text.replace('\n', "\\n");
    let line = format!("{mark}{}: {text}\n", env!("CARGO_PKG_NAME"));
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Whether standard error leads to the journal, which takes a level in front of each line.
fn goes_to_journal() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let (Some(named), Ok(errors)) = (
            env::var_os(JOURNAL_VARIABLE),
            io::stderr().as_fd().try_clone_to_owned(),
        ) else {
            return false;
        };
        let file = File::from(errors).metadata();
        file.is_ok_and(|file| named == *format!("{}:{}", file.dev(), file.ino()))
    })
}

/// Stands before a line that llama.cpp logged as an error.
pub const ERROR_MARK: &str = "\u{1}error: ";
/// Stands before a line that llama.cpp logged as a warning.
pub const WARNING_MARK: &str = "\u{1}warning: ";
/// Stands before any other line that llama.cpp logged.
pub const OTHER_MARK: &str = "\u{1}llama.cpp: ";

/// Longest line that is kept, in bytes; llama.cpp's own assertions are far shorter.
const LINE_LIMIT: usize = 1000;

/// Reads the standard error of a model process.
pub struct Reader {
    verbose: bool,
    line: Vec<u8>,
    first_error: Option<String>,
    cause: Option<String>,
}

impl Reader {
    /// A reader that passes the whole log on to standard error if it is to be `verbose`.
    pub fn new(verbose: bool) -> Self {
        Self {
            verbose,
            line: Vec::new(),
            first_error: None,
            cause: None,
        }
    }

    /// Takes in what the process wrote.
    pub fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.end_line(&String::from_utf8_lossy(&line));
            } else if self.line.len() < LINE_LIMIT {
                self.line.push(byte);
            }
        }
    }

    /// The first error that was logged since [`forget`](Self::forget): those that follow are
    /// ever more general.
    pub fn first_error(&self) -> Option<String> {
        self.first_error.clone()
    }

    /// The reason to give for the death of the process: what it wrote unmarked, else the first
    /// error.
    pub fn cause(&mut self) -> Option<String> {
        if !self.line.is_empty() {
            self.push(b"\n");
        }
        self.cause.clone().or_else(|| self.first_error())
    }

    /// Starts anew, for the next request.
    pub fn forget(&mut self) {
        self.first_error = None;
        self.cause = None;
    }

    fn end_line(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(error) = line.strip_prefix(ERROR_MARK) {
            self.first_error.get_or_insert_with(|| error.to_string());
            self.show(Level::Error, error);
        } else if let Some(warning) = line.strip_prefix(WARNING_MARK) {
            self.show(Level::Warning, warning);
        } else if let Some(other) = line.strip_prefix(OTHER_MARK) {
            self.show(Level::Info, other);
        } else if !line.is_empty() {
            self.hear(line);
            self.show(Level::Error, line);
        }
    }

    /// An assertion or the text of an exception explains more than the lines around it.
    fn hear(&mut self, line: &str) {
        let telling = line.contains("GGML_ASSERT") || line.trim_start().starts_with("what():");
        if telling || self.cause.is_none() {
            self.cause = Some(without_directory(line.trim_start()).to_string());
        }
    }

    fn show(&self, level: Level, line: &str) {
        if self.verbose {
            write(level, line);
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
