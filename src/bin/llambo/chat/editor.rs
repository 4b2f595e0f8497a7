//! The lines that a person types: edited where the build and the terminal allow it, as they come
//! where not.

use std::io;

use super::lines::Lines;
use crate::cli::Options;
use crate::failure::Failure;
use crate::output;
use llama_cpp_bridge::sys::terminal;

/// What is shown where a message goes on.
const CONTINUATION: &str = "| ";

/// What came of waiting for a person.
pub enum Typed {
    /// A message, or a command of the chat.
    Text(String),
    /// Ctrl-C at an empty prompt.
    Interrupt,
    /// Ctrl-D.
    End,
}

/// One line as it was typed, or why there is none.
pub enum Line {
    /// Without its newline. One that was pasted may hold more of them.
    Text(String),
    /// Ctrl-C, or what else drops what is typed; true if there was nothing to drop.
    Interrupt(bool),
    /// Ctrl-D.
    End,
}

impl Line {
    /// One that is no text: it is told, and dropped with what was typed before it.
    pub fn not_text() -> Line {
        output::tell("that line is not valid UTF-8");
        Line::Interrupt(false)
    }
}

/// Reads messages.
pub struct Editor {
    /// Absent where lines cannot be edited.
    lines: Option<Lines>,
}

impl Editor {
    /// An editor for the terminal.
    pub fn new(options: &Options) -> Editor {
        Editor {
            lines: Lines::new(options.history),
        }
    }

    /// Reads a message of one line, or of more where a line ends in a backslash.
    pub fn read(&mut self, prompt: &str) -> Result<Typed, Failure> {
        let mut text = String::new();
        loop {
            let shown = if text.is_empty() {
                prompt
            } else {
                CONTINUATION
            };
            let line = match &mut self.lines {
                Some(lines) => lines.read(shown)?,
                None => plain(shown)?,
            };
            match line {
                Line::Text(line) => match line.strip_suffix('\\') {
                    Some(start) => text = format!("{text}{start}\n"),
                    None => {
                        text.push_str(line.trim_end_matches(['\n', '\r']));
                        break;
                    }
                },
                Line::Interrupt(true) if text.is_empty() => return Ok(Typed::Interrupt),
                Line::Interrupt(_) => text.clear(),
                Line::End if text.is_empty() => return Ok(Typed::End),
                Line::End => break,
            }
        }
        if let Some(lines) = &mut self.lines {
            lines.remember(&text);
        }
        Ok(Typed::Text(self.without_control(text)))
    }

    /// The text, or nothing if it holds what no keyboard has letters for: that is not meant for a
    /// model.
    fn without_control(&self, text: String) -> String {
        let strange = |character: char| character.is_control() && !"\n\t".contains(character);
        if !text.contains(strange) {
            return text;
        }
        output::tell("not sent: the line holds control characters, as arrow keys give them");
        if self.lines.is_none() {
            output::tell("this terminal or this llambo has no line editing; try: rlwrap llambo");
        }
        String::new()
    }
}

/// Reads a line as the terminal gives it. Ctrl-C ends llambo meanwhile.
fn plain(prompt: &str) -> Result<Line, Failure> {
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
        Err(error) => Err(Failure::Usage(format!(
            "cannot read standard input: {error}"
        ))),
    }
}
