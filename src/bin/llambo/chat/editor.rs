//! The lines that a user types: with line editing where the build and the terminal have it.

use super::line::{self, Line};
use super::lines::Lines;
use crate::failure::Failure;
use crate::output;

/// The prompt for another line of a message.
const CONTINUATION: &str = "| ";

/// What a user typed.
pub enum Typed {
    /// A message, or a command of the chat.
    Text(String),
    /// Ctrl-C at an empty prompt.
    Interrupt,
    /// Ctrl-D.
    End,
}

/// Reads messages.
pub struct Editor {
    /// Absent where lines cannot be edited.
    lines: Option<Lines>,
}

impl Editor {
    /// An editor for the terminal, with the history of earlier chats if it is wanted.
    pub fn new(history: bool) -> Editor {
        Editor {
            lines: Lines::new(history),
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
                None => line::read(shown)?,
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

    /// The text, or nothing if it contains control characters, which are not meant for a model.
    fn without_control(&self, text: String) -> String {
        let strange = |character: char| character.is_control() && !"\n\t".contains(character);
        if !text.contains(strange) {
            return text;
        }
        output::report(
            "not sent: the line contains control characters, such as those of arrow keys",
        );
        if self.lines.is_none() {
            output::report("no line editing in this terminal or build; try: rlwrap llambo");
        }
        String::new()
    }
}
