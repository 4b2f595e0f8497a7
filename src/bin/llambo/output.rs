//! Standard output for text, standard error for messages. Nothing else writes to either.

use std::io::{self, Write};

use crate::failure::Failure;
use llama_cpp_bridge::sys::terminal;

/// Writes text to standard output at once, so that it appears while more is generated.
pub fn print(text: &str) -> Result<(), Failure> {
    if terminal::output_is_closed() {
        let error = io::Error::other("it is closed");
        return Err(Failure::Output(error));
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Failure::Output)
}

/// Writes text to standard output with a newline, unless it already ends in one.
pub fn print_line(text: &str) -> Result<(), Failure> {
    // In one piece: other processes may write to the same file.
    match text.ends_with('\n') {
        true => print(text),
        false => print(&format!("{text}\n")),
    }
}

/// A text as a JSON string.
pub fn json_string(text: &str) -> String {
    miniserde::json::to_string(text)
}

/// Writes a message to standard error, each line prefixed with llambo's name. There is nowhere
/// to report that it cannot be written.
pub fn report(message: &str) {
    let mut out = io::stderr().lock();
    for line in message.lines() {
        let _ = writeln!(out, "llambo: {line}");
    }
}

/// Writes to the terminal on standard error, without a prefix.
pub fn show(text: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
