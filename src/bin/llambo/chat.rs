//! The interactive chat: turns with their history, for a person at a terminal.

use std::io::{self, IsTerminal};

use crate::connection::Connection;
use crate::failure::Failure;
use crate::generate::{self, Message, Sampling};
use crate::options::Options;
use crate::output;

/// What is shown where the person is to type.
const PROMPT: &str = "> ";
/// What is shown where a message goes on.
const CONTINUATION: &str = "| ";

/// The words that are no message, and what they do.
const COMMANDS: &str = "\
/clear   forget the conversation
/help    show this
/exit    end, as does Ctrl-D
A backslash at the end of a line goes on with the next; // at the start stands for one slash.
";

/// What a line that was typed means.
#[derive(Debug, PartialEq)]
enum Entry {
    Message(String),
    Clear,
    Help,
    Exit,
    Nothing,
    Unknown(String),
}

/// `chat`: one answer where there is a message; without one, at a terminal, a conversation.
pub(crate) fn or_once(options: &Options) -> Result<(), Failure> {
    if options.operands.is_empty() && io::stdin().is_terminal() {
        return run(options);
    }
    generate::run(options, true)
}

/// Talks until the person has had enough. The connection is made anew for each turn: a bridge
/// serves one client at a time, and others should not wait while somebody thinks.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "no command given, and a chat needs a terminal on standard input".to_string(),
        ));
    }
    let sampling = Sampling::from_options(options)?;
    greet(options)?;
    let mut history = Vec::new();
    while let Some(typed) = read_entry()? {
        match entry(&typed) {
            Entry::Nothing => {}
            Entry::Exit => break,
            Entry::Clear => history.clear(),
            Entry::Help => output::show(COMMANDS),
            Entry::Unknown(word) => output::tell(&format!("no command {word}; /help shows them")),
            Entry::Message(message) => turn(options, &sampling, &mut history, message)?,
        }
    }
    Ok(())
}

/// Says whom one talks to; a bridge that is not there ends the chat before it begins.
fn greet(options: &Options) -> Result<(), Failure> {
    let mut connection = Connection::open(options)?;
    connection.request("STATUS", "")?;
    let reply = connection.reply()?.into_result()?;
    output::show(&format!(
        "{} ({})\n/help shows the commands, Ctrl-D ends.\n",
        reply.message, options.sockets[0]
    ));
    Ok(())
}

/// One turn: what was said joins the history only together with its answer.
fn turn(
    options: &Options,
    sampling: &Sampling,
    history: &mut Vec<Message>,
    message: String,
) -> Result<(), Failure> {
    let asked = history.len();
    if history.is_empty() {
        history.extend(generate::opening(options, message));
    } else {
        history.push(Message {
            role: "user",
            content: message,
        });
    }
    let object = sampling.of_messages(history.iter());
    let outcome = Connection::open(options)
        .and_then(|mut connection| generate::ask(&mut connection, &object, options.json, sampling));
    match outcome {
        Ok(answer) => {
            history.push(Message {
                role: "assistant",
                content: answer,
            });
            Ok(())
        }
        Err(failure @ Failure::Output(_)) => Err(failure),
        Err(failure) => {
            history.truncate(asked);
            if failure.is_worth_telling() {
                output::tell(&failure.to_string());
            }
            if matches!(&failure, Failure::Bridge { code, .. } if code == "context_exceeded") {
                output::tell("the conversation is too long for the model; /clear begins a new one");
            }
            Ok(())
        }
    }
}

/// Reads a message of one line, or of more where a line ends in a backslash.
fn read_entry() -> Result<Option<String>, Failure> {
    let mut text = String::new();
    output::show(PROMPT);
    loop {
        let mut line = String::new();
        match io::stdin().read_line(&mut line) {
            Ok(0) if text.is_empty() => {
                output::show("\n");
                return Ok(None);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                output::tell("that line is not valid UTF-8");
                line.clear();
            }
            Err(error) => {
                return Err(Failure::Usage(format!(
                    "cannot read standard input: {error}"
                )));
            }
        }
        let line = line.trim_end_matches(['\n', '\r']);
        match line.strip_suffix('\\') {
            Some(start) => {
                text.push_str(start);
                text.push('\n');
                output::show(CONTINUATION);
            }
            None => {
                text.push_str(line);
                return Ok(Some(text));
            }
        }
    }
}

/// Tells messages from commands.
fn entry(typed: &str) -> Entry {
    match typed.trim() {
        "" => Entry::Nothing,
        "/exit" => Entry::Exit,
        "/clear" => Entry::Clear,
        "/help" => Entry::Help,
        text if text.starts_with("//") => Entry::Message(text[1..].to_string()),
        text if text.starts_with('/') => {
            let word = text.split_whitespace().next().unwrap_or(text);
            Entry::Unknown(word.to_string())
        }
        _ => Entry::Message(typed.to_string()),
    }
}
