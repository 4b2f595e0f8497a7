//! GENERATE: the request from the options, and the answer as it comes.

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};

use llama_cpp_bridge::protocol::json::{self, Kind};
use llama_cpp_bridge::shared::message::Turn;

use crate::cli::{Constraint, Options};
use crate::connection::{Connection, Reply};
use crate::failure::{Failure, usage};
use crate::input;
use crate::output::{self, json_string};

/// The fields of a GENERATE object that are the same for every prompt.
#[derive(Clone)]
pub struct Sampling {
    members: String,
    /// True if each request gets a random seed, whatever the bridge was started with.
    random: bool,
    /// True if the user set the number of tokens.
    pub limited: bool,
    /// True if replies are printed instead of text.
    json: bool,
    /// What the answer has to match, if anything.
    constraint: Option<&'static str>,
}

impl Sampling {
    /// Takes the options, and reads the files that they name.
    pub fn from_options(options: &Options) -> Result<Self, Failure> {
        let mut members = String::new();
        // GENERATE has no seed of -1, and without one the bridge's own option would count.
        let random = |(name, value): &(&str, String)| *name == "seed" && value == "-1";
        for (name, value) in options.fields.iter().filter(|field| !random(field)) {
            members.push_str(&format!(",\"{name}\":{value}"));
        }
        if !options.stop.is_empty() {
            members.push_str(&format!(
                ",\"stop\":{}",
                miniserde::json::to_string(&options.stop)
            ));
        }
        match &options.constraint {
            None => {}
            Some(Constraint::GrammarFile(path)) => {
                let grammar = read(path, options)?;
                members.push_str(&format!(",\"grammar\":{}", json_string(&grammar)));
            }
            Some(Constraint::Schema(text)) => {
                members.push_str(&schema("--json-schema", text)?);
            }
            Some(Constraint::SchemaFile(path)) => {
                members.push_str(&schema(&path.to_string_lossy(), &read(path, options)?)?);
            }
        }
        Ok(Sampling {
            members,
            json: options.json,
            random: options.fields.iter().any(random),
            limited: options.fields.iter().any(|(name, _)| *name == "max_tokens"),
            constraint: options.constraint.as_ref().map(|kind| match kind {
                Constraint::GrammarFile(_) => "grammar",
                Constraint::Schema(_) | Constraint::SchemaFile(_) => "schema",
            }),
        })
    }

    /// Fails if the answer was cut off before it matched its grammar or schema.
    pub fn check(&self, reply: &Reply) -> Result<(), Failure> {
        match self.constraint {
            Some(kind) if reply.is_cut() => Err(Failure::Cut(format!(
                "{}; it does not match the {kind}",
                how_cut(reply)
            ))),
            _ => Ok(()),
        }
    }

    /// The object that asks for what follows a prompt.
    pub fn of_prompt(&self, prompt: &str) -> String {
        self.object("prompt", &json_string(prompt))
    }

    /// The object that asks for the answer to a conversation.
    pub fn of_messages(&self, messages: &Vec<Turn>) -> String {
        self.object("messages", &miniserde::json::to_string(messages))
    }

    fn object(&self, name: &str, prompt: &str) -> String {
        let seed = match self.random {
            true => format!(",\"seed\":{}", random_seed()),
            false => String::new(),
        };
        format!(
            "{{\"{name}\":{prompt},\"stream\":true{}{seed}}}",
            self.members
        )
    }
}

/// A random seed, from the standard library's source of randomness.
fn random_seed() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}

/// `infer` and `chat` with one prompt.
pub fn run(options: &Options, chat: bool) -> Result<(), Failure> {
    let sampling = Sampling::from_options(options)?;
    let prompt = input::prompt(options)?;
    let object = if chat {
        sampling.of_messages(&opening(options, prompt))
    } else {
        sampling.of_prompt(&prompt)
    };
    let mut connection = options.bridges.connect()?;
    let mut shown = String::new();
    ask(&mut connection, &object, &sampling, &mut shown).map(drop)
}

/// The first turns of a conversation: the system message, if any, and the user's.
pub fn opening(options: &Options, message: String) -> Vec<Turn> {
    let system = options.system.clone().map(|text| turn("system", text));
    system.into_iter().chain([turn("user", message)]).collect()
}

/// What `system`, `user` or `assistant` said.
pub fn turn(role: &str, content: String) -> Turn {
    let role = role.to_string();
    Turn { role, content }
}

/// Sends a GENERATE object and prints the answer as it arrives, or its last reply for `--json`. What
/// arrived before it ended or failed is in `shown`.
pub fn ask(
    connection: &mut Connection,
    object: &str,
    sampling: &Sampling,
    shown: &mut String,
) -> Result<Reply, Failure> {
    connection.request("GENERATE", object)?;
    let outcome = connection.answer(|piece| {
        shown.push_str(piece);
        if sampling.json {
            return Ok(());
        }
        output::print(piece)
    });
    if sampling.json {
        let reply = outcome?;
        output::print_line(&reply.line)?;
        sampling.check(&reply)?;
        return reply.reported();
    }
    match outcome.and_then(Reply::into_result) {
        Ok(reply) => {
            let text = reply.text("data");
            // The rest, where a bridge did not stream all of it.
            output::print(text.strip_prefix(shown.as_str()).unwrap_or_default())?;
            if !text.ends_with('\n') {
                output::print("\n")?;
            }
            sampling.check(&reply)?;
            if reply.is_cut() && !(sampling.limited && reply.text("finish_reason") == "length") {
                output::report(&how_cut(&reply));
            }
            Ok(reply)
        }
        Err(failure) => {
            // The message that follows starts on its own line.
            if !shown.is_empty() && !shown.ends_with('\n') {
                output::print("\n")?;
            }
            Err(failure)
        }
    }
}

/// Says where an answer was cut off.
fn how_cut(reply: &Reply) -> String {
    if reply.text("finish_reason") != "length" {
        return "the answer was cut off: the context is full".to_string();
    }
    let count = reply.count("completion_tokens");
    format!("the answer was cut off after {count} tokens (-n raises the limit)")
}

/// Reads a file that holds text.
fn read(path: &OsStr, options: &Options) -> Result<String, Failure> {
    let shown = path.to_string_lossy();
    let file = File::open(path).map_err(|error| usage!("cannot read {shown}: {error}"))?;
    input::all(file, &shown, options)
}

/// The field for a JSON schema, its keys in the author's order: that is the order in which they
/// will be generated.
fn schema(source: &str, text: &str) -> Result<String, Failure> {
    let wrong = |reason: String| usage!("{source}: {reason}");
    let value = json::parse(text).map_err(wrong)?;
    if !matches!(value.kind, Kind::Object(_)) {
        let reason = "a JSON schema is an object, such as {\"type\":\"object\"}";
        return Err(wrong(reason.to_string()));
    }
    // Between the tokens of JSON a newline is the same as a blank.
    let line = value.source.replace(['\n', '\r'], " ");
    Ok(format!(",\"json_schema\":{line}"))
}
