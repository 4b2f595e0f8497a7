//! The commands: a table of verbs, and for each a handler that says what is to be done.

mod states;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use crate::cli::Options;
use crate::server::metrics::Metrics;
use crate::slot::Slot;
use llama_cpp_bridge::protocol::framing::Request;
use llama_cpp_bridge::protocol::generate;
use llama_cpp_bridge::protocol::reply::{COMPLETED, Info, NO_MODEL, Reply};
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::{Answer, Generate, Turn, Work};
use llama_cpp_bridge::shared::settings::processors;

/// Characters of an unknown verb that its error reply repeats.
const SHOWN_WORD: usize = 64;

/// What a request is called whose verb is none of the table's, or that is no request at all.
pub const UNKNOWN: &str = "unknown";

/// What is to be done for a request.
pub enum Action {
    /// Answer it when its turn comes, by what is known then.
    Tell(fn(&Slot, &Options, &Metrics) -> Reply),
    /// Ask the model, at once if there is room, and make a reply of its answer.
    Ask(Question),
    /// Ask the model, when all requests before are answered; those behind wait for it.
    AskAlone(Question),
    /// Load this file, when all requests before are answered.
    Load(String),
    /// Unload the model, likewise.
    Free,
    /// Stop the bridge, likewise.
    Quit,
    /// Look whether this token is one of those that the bridge knows, likewise.
    Auth(String),
}

/// A question to the model.
pub struct Question {
    pub work: Work,
    pub reply: MakeReply,
}

/// Makes the reply of the model's answer; `None` if it is the answer to another question.
pub type MakeReply = fn(Answer) -> Option<Reply>;

/// What follows a verb.
enum Argument {
    /// Nothing may.
    None,
    /// Something must; without it the reply is this sentence.
    Needed(&'static str),
}

/// A verb.
struct Command {
    /// In upper case.
    name: &'static str,
    argument: Argument,
    /// Its line in the reply of HELP.
    usage: &'static str,
    handler: fn(&str, &Options) -> Result<Action, Failure>,
}

/// All verbs, as in llama-cpp-bridge(7).
static COMMANDS: &[Command] = &[
    Command {
        name: "PING",
        argument: Argument::None,
        usage: "PING: test the connection",
        handler: ping,
    },
    Command {
        name: "STATUS",
        argument: Argument::None,
        usage: "STATUS: tell which model is loaded",
        handler: status,
    },
    Command {
        name: "INFO",
        argument: Argument::None,
        usage: "INFO: tell all about the bridge and its model",
        handler: info,
    },
    Command {
        name: "HELP",
        argument: Argument::None,
        usage: "HELP: list the commands",
        handler: help,
    },
    Command {
        name: "METRICS",
        argument: Argument::None,
        usage: "METRICS: tell what was counted, for Prometheus",
        handler: metrics,
    },
    Command {
        name: "LOAD",
        argument: Argument::Needed("No model path provided"),
        usage: "LOAD PATH: load a GGUF file",
        handler: load,
    },
    Command {
        name: "INFER",
        argument: Argument::Needed("No prompt provided"),
        usage: "INFER PROMPT: generate text after a prompt",
        handler: infer,
    },
    Command {
        name: "STREAM",
        argument: Argument::Needed("No prompt provided"),
        usage: "STREAM PROMPT: the same, piece by piece",
        handler: stream,
    },
    Command {
        name: "CHAT",
        argument: Argument::Needed("No message provided"),
        usage: "CHAT MESSAGE: answer a message",
        handler: chat,
    },
    Command {
        name: "GENERATE",
        argument: Argument::Needed("No request object provided"),
        usage: "GENERATE OBJECT: generate as a JSON object says",
        handler: generate,
    },
    Command {
        name: "EMBED",
        argument: Argument::Needed("No text provided"),
        usage: "EMBED TEXT: compute the embedding of a text",
        handler: embed,
    },
    Command {
        name: "TOKENIZE",
        argument: Argument::Needed("No text provided"),
        usage: "TOKENIZE TEXT: turn text into tokens",
        handler: tokenize,
    },
    Command {
        name: "DETOKENIZE",
        argument: Argument::Needed("No tokens provided"),
        usage: "DETOKENIZE ID...: turn tokens into text",
        handler: detokenize,
    },
    Command {
        name: "SAVE",
        argument: Argument::Needed(states::NO_NAME),
        usage: "SAVE NAME: store the evaluated text under a name",
        handler: states::save,
    },
    Command {
        name: "RESTORE",
        argument: Argument::Needed(states::NO_NAME),
        usage: "RESTORE NAME: bring a stored text back",
        handler: states::restore,
    },
    Command {
        name: "FREE",
        argument: Argument::None,
        usage: "FREE: unload the model",
        handler: free,
    },
    Command {
        name: "QUIT",
        argument: Argument::None,
        usage: "QUIT: stop the bridge",
        handler: quit,
    },
    Command {
        name: "AUTH",
        argument: Argument::Needed("No token provided"),
        usage: "AUTH TOKEN: show that the bridge may be used",
        handler: auth,
    },
];

/// The verbs that every client may use that is served at all: to see that the bridge is there, and
/// to get at the others.
const ALWAYS: [&str; 2] = ["PING", "AUTH"];

/// The names of all verbs, in upper case.
pub fn verbs() -> Vec<&'static str> {
    COMMANDS.iter().map(|command| command.name).collect()
}

/// The verb of a request, in upper case.
pub fn verb(request: &Request) -> &'static str {
    find(request.split().0).map_or(UNKNOWN, |command| command.name)
}

/// The names under which requests are counted.
pub fn counted() -> impl Iterator<Item = &'static str> {
    verbs().into_iter().chain([UNKNOWN])
}

/// What is to be done for a request of a client that has shown a token, or needs none, if `known`.
///
/// # Errors
/// The failure that answers it instead.
pub fn prepare(
    request: &Request,
    options: &Options,
    known: bool,
) -> Result<Action, Failure> {
    let (verb, argument) = request.split();
    if !known && !ALWAYS.iter().any(|name| name.eq_ignore_ascii_case(verb)) {
        let message = "Not authenticated: this bridge needs AUTH TOKEN first";
        return Err(Failure::new(Code::Unauthenticated, message));
    }
    let command = lookup(verb, argument, options)?;
    (command.handler)(argument, options)
}

/// Whether the bridge was started with this verb allowed.
fn is_allowed(name: &str, options: &Options) -> bool {
    let listed = |allowed: &Vec<String>| allowed.iter().any(|verb| verb == name);
    ALWAYS.contains(&name) || options.allow.as_ref().is_none_or(listed)
}

fn find(verb: &str) -> Option<&'static Command> {
    let mut commands = COMMANDS.iter();
    commands.find(|command| command.name.eq_ignore_ascii_case(verb))
}

fn lookup(verb: &str, argument: &str, options: &Options) -> Result<&'static Command, Failure> {
    let Some(command) = find(verb) else {
        let word: String = verb.chars().take(SHOWN_WORD).collect();
        let message = format!("Unknown command: {word}");
        return Err(Failure::new(Code::UnknownCommand, message));
    };
    if !is_allowed(command.name, options) {
        let message = format!("{} is not allowed on this bridge", command.name);
        return Err(Failure::new(Code::Denied, message));
    }
    match command.argument {
        Argument::None if !argument.is_empty() => {
            let message = format!("{} takes no argument", command.name);
            Err(Failure::bad_request(message))
        }
        Argument::Needed(missing) if argument.is_empty() => Err(Failure::bad_request(missing)),
        _ => Ok(command),
    }
}

fn ping(_: &str, _: &Options) -> Result<Action, Failure> {
    Ok(Action::Tell(|_, _, _| Reply::message("pong")))
}

fn status(_: &str, _: &Options) -> Result<Action, Failure> {
    Ok(Action::Tell(|slot, _, _| {
        Reply::message(match slot.model() {
            Some(model) => format!("Model loaded: {}", model.path()),
            None => NO_MODEL.to_string(),
        })
    }))
}

fn info(_: &str, _: &Options) -> Result<Action, Failure> {
    Ok(Action::Tell(|slot, options, _| {
        let about = slot.model().map(|model| {
            Box::new(Info {
                model: model.path().to_string(),
                threads: options.load.threads.unwrap_or_else(processors),
                parallel: options.load.parallel,
                ready: model.ready.clone(),
            })
        });
        Reply::Info(about)
    }))
}

fn help(_: &str, _: &Options) -> Result<Action, Failure> {
    Ok(Action::Tell(|_, options, _| {
        let allowed = COMMANDS.iter().filter(|row| is_allowed(row.name, options));
        let usages: Vec<&str> = allowed.map(|command| command.usage).collect();
        Reply::Data {
            message: "Commands",
            data: usages.join("\n"),
        }
    }))
}

fn metrics(_: &str, _: &Options) -> Result<Action, Failure> {
    Ok(Action::Tell(|slot, _, metrics| Reply::Data {
        message: "Metrics",
        data: metrics.text(slot),
    }))
}

fn load(path: &str, _: &Options) -> Result<Action, Failure> {
    Ok(Action::Load(path.to_string()))
}

fn free(_: &str, _: &Options) -> Result<Action, Failure> {
    Ok(Action::Free)
}

fn quit(_: &str, _: &Options) -> Result<Action, Failure> {
    Ok(Action::Quit)
}

fn auth(token: &str, _: &Options) -> Result<Action, Failure> {
    Ok(Action::Auth(token.to_string()))
}

fn infer(prompt: &str, options: &Options) -> Result<Action, Failure> {
    let request = Generate {
        prompt: Some(prompt.to_string()),
        ..defaults(options)
    };
    Ok(Action::Ask(Question {
        work: Work::Generate(Box::new(request)),
        reply: |answer| match answer {
            Answer::Generated(done) => Some(Reply::Data {
                message: COMPLETED,
                data: done.text,
            }),
            _ => None,
        },
    }))
}

fn stream(prompt: &str, options: &Options) -> Result<Action, Failure> {
    Ok(completion(Generate {
        prompt: Some(prompt.to_string()),
        stream: true,
        ..defaults(options)
    }))
}

fn chat(message: &str, options: &Options) -> Result<Action, Failure> {
    let turn = Turn {
        role: "user".to_string(),
        content: message.to_string(),
    };
    Ok(completion(Generate {
        messages: Some(vec![turn]),
        ..defaults(options)
    }))
}

fn generate(object: &str, options: &Options) -> Result<Action, Failure> {
    generate::parse(object, defaults(options)).map(completion)
}

/// A request with everything as the command line sets it, and yet without a prompt.
fn defaults(options: &Options) -> Generate {
    // The standard library's source of randomness.
    let drawn = || RandomState::new().build_hasher().finish() as u32;
    Generate {
        prompt: None,
        messages: None,
        max_tokens: options.max_tokens,
        sampling: options.sampling.clone(),
        seed: options.seed.unwrap_or_else(drawn),
        stop: Vec::new(),
        grammar: None,
        json_schema: None,
        stream: false,
        ignore_eos: false,
        cache_prompt: true,
    }
}

fn completion(request: Generate) -> Action {
    Action::Ask(Question {
        work: Work::Generate(Box::new(request)),
        reply: |answer| match answer {
            Answer::Generated(done) => Some(Reply::Completion(*done)),
            _ => None,
        },
    })
}

fn embed(text: &str, _: &Options) -> Result<Action, Failure> {
    Ok(Action::Ask(Question {
        work: Work::Embed(text.to_string()),
        reply: |answer| match answer {
            Answer::Embedding(embedding) => Some(Reply::Embedding(embedding)),
            _ => None,
        },
    }))
}

fn tokenize(text: &str, _: &Options) -> Result<Action, Failure> {
    Ok(Action::Ask(Question {
        work: Work::Tokenize(text.to_string()),
        reply: |answer| match answer {
            Answer::Tokens(tokens) => Some(Reply::Tokens(tokens)),
            _ => None,
        },
    }))
}

fn detokenize(ids: &str, _: &Options) -> Result<Action, Failure> {
    let ids = ids
        .split_ascii_whitespace()
        .map(|id| {
            id.parse().map_err(|_| {
                Failure::bad_request(format!("'{id}' is not a token; a token is a whole number"))
            })
        })
        .collect::<Result<Vec<i32>, Failure>>()?;
    if ids.is_empty() {
        return Err(Failure::bad_request("No tokens provided"));
    }
    Ok(Action::Ask(Question {
        work: Work::Detokenize(ids),
        reply: |answer| match answer {
            Answer::Text(data) => Some(Reply::Data {
                message: "Detokenization completed",
                data,
            }),
            _ => None,
        },
    }))
}
