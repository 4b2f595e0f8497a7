//! The conversation: its turns, and the commands that start with a slash.

use std::io::{self, IsTerminal};

use llama_cpp_bridge::shared::failure::Code;
use llama_cpp_bridge::shared::message::Turn;

use super::editor::{Editor, Typed};
use super::interrupt::Interrupts;
use crate::cli::Options;
use crate::connection::Reply;
use crate::failure::{self, Failure, usage};
use crate::generate::{self, Sampling, turn};
use crate::output;

/// The prompt for a message.
const PROMPT: &str = "> ";

/// What `/help` shows.
const COMMANDS: &str = "\
/clear   forget the conversation
/drop    forget its oldest turn; after a message that did not fit, as many turns
         as needed, and send the message again
/help    show this help
/exit    leave, as does Ctrl-D
A backslash at the end of a line continues the message; // at the start means a slash.
Ctrl-C stops an answer.
";

/// What a line that was typed means.
#[derive(Debug, PartialEq)]
enum Entry {
    Message(String),
    Clear,
    Drop,
    Help,
    Exit,
    Nothing,
    Unknown(String),
}

/// A conversation.
struct Chat<'a> {
    options: &'a Options,
    sampling: Sampling,
    interrupts: Interrupts,
    /// The conversation: perhaps a system message, then user and assistant in turn.
    said: Vec<Turn>,
    /// How many tokens of the context it takes.
    tokens: u64,
    /// The last message, if there was no room for it.
    unanswered: Option<String>,
}

/// `chat`: one answer where there is a message; without one, at a terminal, a conversation.
pub fn or_once(options: &Options) -> Result<(), Failure> {
    if options.operands.is_empty() && io::stdin().is_terminal() {
        return run(options);
    }
    generate::run(options, true)
}

/// Talks until the user leaves. Each turn has a connection of its own: a bridge serves one client at
/// a time, and others should not wait while somebody thinks.
pub fn run(options: &Options) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(usage!(
            "no command given, and a chat needs a terminal as standard input"
        ));
    }
    let sampling = Sampling::from_options(options)?;
    greet(options)?;
    let mut chat = Chat {
        options,
        sampling,
        interrupts: Interrupts::take(),
        said: Vec::new(),
        tokens: 0,
        unanswered: None,
    };
    let mut editor = Editor::new(options.history);
    loop {
        let typed = match editor.read(PROMPT)? {
            Typed::Text(typed) => typed,
            Typed::Interrupt => return Err(Failure::Reported(failure::INTERRUPTED)),
            Typed::End => return Ok(()),
        };
        match entry(&typed) {
            Entry::Nothing => {}
            Entry::Exit => return Ok(()),
            Entry::Clear => chat.clear(),
            Entry::Drop => chat.drop_oldest()?,
            Entry::Help => output::show(COMMANDS),
            Entry::Unknown(word) => output::report(&format!("unknown command {word}; see /help")),
            Entry::Message(message) => chat.say(message)?,
        }
    }
}

/// Shows which model answers; without a bridge the chat ends here.
fn greet(options: &Options) -> Result<(), Failure> {
    let mut connection = options.bridges.connect()?;
    let reply = connection.quick("STATUS")?.into_result()?;
    output::show(&format!(
        "{} ({})\nType /help for the commands, Ctrl-D to leave.\n",
        reply.message, connection.address
    ));
    Ok(())
}

impl Chat<'_> {
    /// Forgets everything.
    fn clear(&mut self) {
        self.said.clear();
        self.tokens = 0;
        self.unanswered = None;
    }

    /// Sends a message, and if there is no room for it, says what can be done.
    fn say(&mut self, message: String) -> Result<(), Failure> {
        self.unanswered = self.turn(message)?;
        if self.unanswered.is_some() {
            self.offer_room();
        }
        Ok(())
    }

    /// Says how to make room in the context.
    fn offer_room(&self) {
        if self.turns() > 0 {
            output::report(&format!(
                "/clear frees the {} tokens of this conversation; /drop forgets only its oldest turns",
                self.tokens
            ));
        }
    }

    /// Forgets the oldest turn; after a message that did not fit, as many as needed.
    fn drop_oldest(&mut self) -> Result<(), Failure> {
        let mut dropped = 0;
        while self.turns() > 0 {
            // A system message stays.
            let first = self.said.len() % 2;
            self.said.drain(first..first + 2);
            dropped += 1;
            if let Some(message) = self.unanswered.take() {
                self.unanswered = self.turn(message)?;
            }
            if self.unanswered.is_none() {
                break;
            }
        }
        output::report(&format!("turns forgotten: {dropped}"));
        Ok(())
    }

    /// How many turns were answered.
    fn turns(&self) -> usize {
        self.said.len() / 2
    }

    /// Sends a message. It stays in the conversation only together with its answer, or with what
    /// there is of an interrupted one. If the conversation leaves no room for it, it is returned.
    fn turn(&mut self, message: String) -> Result<Option<String>, Failure> {
        let before = self.said.len();
        if before == 0 {
            self.said
                .extend(generate::opening(self.options, message.clone()));
        } else {
            self.said.push(turn("user", message.clone()));
        }
        let object = self.sampling.of_messages(&self.said);
        let (bridges, sampling) = (self.options.bridges.clone(), self.sampling.clone());
        let (outcome, stopped) = self.interrupts.during(move |connected| {
            let mut shown = String::new();
            let outcome = bridges.connect().and_then(|mut connection| {
                connected(connection.sender()?)?;
                generate::ask(&mut connection, &object, &sampling, &mut shown)
            });
            (outcome, shown)
        });
        match outcome {
            Some((Ok(reply), _)) => self.answered(&reply),
            Some((Err(failure @ Failure::Output(_)), _)) => return Err(failure),
            Some((Err(_), shown)) if stopped && !shown.is_empty() => {
                self.said.push(turn("assistant", shown));
            }
            Some((Err(failure), _)) if !stopped => {
                self.said.truncate(before);
                output::report(&failure.to_string());
                if matches!(&failure, Failure::Bridge { code, .. } if *code == Some(Code::ContextExceeded))
                {
                    return Ok(Some(message));
                }
            }
            _ => self.said.truncate(before),
        }
        if stopped {
            output::report("interrupted; press Ctrl-C at an empty prompt to leave");
        }
        Ok(None)
    }

    /// Adds an answer to the conversation.
    fn answered(&mut self, reply: &Reply) {
        let text = reply.text("data").to_string();
        self.said.push(turn("assistant", text));
        self.tokens = reply.count("prompt_tokens") + reply.count("completion_tokens");
        if reply.text("finish_reason") == "context" {
            self.offer_room();
        }
    }
}

/// Distinguishes messages from commands.
fn entry(typed: &str) -> Entry {
    match typed.trim() {
        "" => Entry::Nothing,
        "/exit" => Entry::Exit,
        "/clear" => Entry::Clear,
        "/drop" => Entry::Drop,
        "/help" => Entry::Help,
        text if text.starts_with("//") => Entry::Message(text[1..].to_string()),
        text if text.starts_with('/') => {
            let word = text.split_whitespace().next().unwrap_or(text);
            Entry::Unknown(word.to_string())
        }
        _ => Entry::Message(typed.to_string()),
    }
}
