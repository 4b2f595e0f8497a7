//! Line editing with rustyline, and the history of what was typed.

use std::cell::Cell;
use std::env;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use rustyline::completion::Completer;
use rustyline::config::{Behavior, Config};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{ColorMode, Context, Editor, Helper};

use super::line::Line;
use crate::failure::{Failure, usage};
use crate::output;

/// How many messages the history keeps.
const REMEMBERED: usize = 1000;

/// Values of `TERM` of terminals without cursor control.
const PLAIN_TERMINALS: &[&str] = &["dumb", "cons25", "emacs"];

/// The editor and its history.
pub struct Lines {
    editor: Editor<Watch, FileHistory>,
    /// Where the history is saved; `None` if it is not.
    file: Option<PathBuf>,
}

/// Knows whether the line is empty, which rustyline does not say on Ctrl-C.
struct Watch {
    empty: Cell<bool>,
}

impl Hinter for Watch {
    type Hint = String;

    fn hint(&self, line: &str, _: usize, _: &Context<'_>) -> Option<String> {
        self.empty.set(line.is_empty());
        None
    }
}

impl Completer for Watch {
    type Candidate = String;
}

impl Highlighter for Watch {}

impl Validator for Watch {}

impl Helper for Watch {}

impl Lines {
    /// The editor, with the history of earlier chats if it is wanted; `None` on a terminal without
    /// cursor control.
    pub fn new(history: bool) -> Option<Lines> {
        let terminal = env::var("TERM").unwrap_or_default();
        if PLAIN_TERMINALS.contains(&terminal.as_str()) {
            return None;
        }
        let config = Config::builder()
            .max_history_size(REMEMBERED)
            .ok()?
            .history_ignore_space(true)
            // Not on standard output, which is for the answers.
            .behavior(Behavior::PreferTerm)
            .color_mode(ColorMode::Disabled)
            .build();
        let mut editor = Editor::with_config(config).ok()?;
        editor.set_helper(Some(Watch {
            empty: Cell::new(true),
        }));
        let file = history.then(history_file).flatten();
        if let Some(file) = &file {
            // Before the first chat there is none.
            let _ = editor.load_history(file);
        }
        Some(Lines { editor, file })
    }

    /// Reads a line.
    pub fn read(&mut self, prompt: &str) -> Result<Line, Failure> {
        match self.editor.readline(prompt) {
            Ok(line) => Ok(Line::Text(line)),
            Err(ReadlineError::Interrupted) => {
                let watch = self.editor.helper();
                Ok(Line::Interrupt(
                    watch.is_some_and(|watch| watch.empty.get()),
                ))
            }
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                Ok(Line::not_text())
            }
            Err(error) => Err(usage!("cannot read the terminal: {error}")),
        }
    }

    /// Adds a message to the history.
    pub fn remember(&mut self, text: &str) {
        let _ = self.editor.add_history_entry(text);
        let Some(file) = &self.file else {
            return;
        };
        if let Err(error) = self.editor.append_history(file) {
            output::report(&format!(
                "cannot write the history {}: {error}",
                file.display()
            ));
            self.file = None;
        }
    }
}

/// The file of the history, in a directory that is created if necessary; `None` without a home.
fn history_file() -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let state = env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.and_then(absolute).or_else(|| {
        let home = env::var_os("HOME").map(PathBuf::from);
        Some(home.and_then(absolute)?.join(".local/state"))
    })?;
    let directory = state.join("llambo");
    // A failure is reported when the history cannot be written.
    let _ = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory);
    Some(directory.join("history"))
}
