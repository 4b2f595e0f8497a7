//! Standard output for text, standard error for messages; nothing else writes to either.

use std::io::{self, Write};

use crate::failure::Failure;

/// Writes text to standard output at once, so that it shows while more is generated.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Failure::Output)
}

/// Writes text to standard output with a newline, unless it already ends in one.
pub(crate) fn print_line(text: &str) -> Result<(), Failure> {
    print(text)?;
    if text.ends_with('\n') {
        return Ok(());
    }
    print("\n")
}

/// Writes a message to standard error. One that cannot be written is nobody's to hear.
pub(crate) fn tell(message: &str) {
    let _ = writeln!(io::stderr().lock(), "llambo: {message}");
}

/// Writes to the terminal on standard error, as it is.
pub(crate) fn show(text: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
