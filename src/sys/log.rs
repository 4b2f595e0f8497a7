//! The log: what the bridge writes to its own standard error, and how the model process marks the
//! lines of llama.cpp's log on that of its own.

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::sys::raw_poll::poll_raw;

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

/// How long a standard error that is full is waited for. It is not waited for again until it has taken
/// a line.
const PATIENCE: Duration = Duration::from_millis(100);

/// Bytes that a pipe takes at once if it takes any (PIPE_BUF).
const AT_ONCE: usize = 4096;

/// Lines that standard error did not take since it last took one.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Whether it took the last line in part.
static CUT: AtomicBool = AtomicBool::new(false);

/// Writes one line to standard error, as `llama-cpp-bridge: MESSAGE`. A standard error that is closed,
/// or full because nobody reads it, does not keep the bridge from serving: lines are lost then, and
/// counted. (If several write to one pipe, what one sees as room another may take before it.)
pub fn write(level: Level, text: &str) {
    let lost = LOST.load(Ordering::Relaxed);
    let mut patience = PATIENCE;
    if lost > 0 {
        patience = Duration::ZERO;
        let told = format!("{lost} lines were lost: standard error was full");
        if !put(Level::Warning, &told, patience) {
            LOST.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
    let taken = put(level, text, patience);
    LOST.store(u64::from(!taken), Ordering::Relaxed);
}

/// Whether standard error takes something, or fails, within this time. Where a signal comes first it
/// is taken for full.
fn has_room(patience: Duration) -> bool {
    let mut fds = [libc::pollfd {
        fd: libc::STDERR_FILENO,
        events: libc::POLLOUT,
        revents: 0,
    }];
    match poll_raw(&mut fds, patience.as_millis() as libc::c_int) {
        Ok(()) => fds[0].revents != 0,
        Err(error) => error.kind() != io::ErrorKind::Interrupted,
    }
}

/// Writes a line to standard error, as far as it takes it, each part within this time. Whether it took
/// the whole line.
fn put(level: Level, text: &str, patience: Duration) -> bool {
    let mark = if goes_to_journal() {
        format!("<{}>", level as u8)
    } else {
        String::new()
    };
    let line = format!("{mark}{}: {}\n", env!("CARGO_PKG_NAME"), printable(text));
    // What is left of a line that it took in part is not to be the beginning of another.
    let end = if CUT.load(Ordering::Relaxed) {
        "\n"
    } else {
        ""
    };
    let line = format!("{end}{line}");
    let count = line.len().div_ceil(AT_ONCE);
    let parts = line.as_bytes().chunks(AT_ONCE);
    let taken = parts.take_while(|part| has_room(patience) && takes(part));
    let taken = taken.count();
    if taken > 0 {
        CUT.store(taken < count, Ordering::Relaxed);
    }
    taken == count
}

/// Writes a part of a line. One that has been closed takes everything.
fn takes(part: &[u8]) -> bool {
    io::stderr().write_all(part).is_ok()
}

/// The text with its control characters written out, `\n` for instance: a file's name may hold one,
/// which is not to look like a message of its own, nor to reach a terminal. A tab harms nobody.
pub fn printable(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\t' => result.push('\t'),
            _ if character.is_control() => result.extend(character.escape_default()),
            _ => result.push(character),
        }
    }
    result
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
