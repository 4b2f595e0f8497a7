//! The log: what the bridge writes to its own standard error, and how the model process marks the
//! lines of llama.cpp's log on that of its own.

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
    let line = format!("{mark}{}: {}\n", env!("CARGO_PKG_NAME"), printable(text));
    let _ = io::stderr().write_all(line.as_bytes());
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
