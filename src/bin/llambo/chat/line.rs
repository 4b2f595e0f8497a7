//! Lines as the terminal gives them.

use std::io;

use llama_cpp_bridge::sys::terminal;

use crate::failure::{Failure, usage};
use crate::output;

/// One line as it was typed, or why there is none.
pub enum Line {
    /// Without its newline. Text that was pasted may contain more of them.
    Text(String),
    /// Ctrl-C, or what else discards the line; true if it was empty.
    Interrupt(bool),
    /// Ctrl-D.
    End,
}

impl Line {
    /// One that is not UTF-8: it is reported, and discarded with the lines before it.
    pub fn not_text() -> Line {
        output::report("that line is not valid UTF-8");
        Line::Interrupt(false)
    }
}

/// Reads a line. Meanwhile Ctrl-C ends llambo.
pub fn read(prompt: &str) -> Result<Line, Failure> {
    output::show(prompt);
    let mut line = String::new();
    terminal::hold_interrupts(false);
    let outcome = io::stdin().read_line(&mut line);
    terminal::hold_interrupts(true);
    match outcome {
        Ok(0) => {
            output::show("\n");
            Ok(Line::End)
        }
        Ok(_) => Ok(Line::Text(line.trim_end_matches(['\n', '\r']).to_string())),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Line::not_text()),
        Err(error) => Err(usage!("cannot read standard input: {error}")),
    }
}
