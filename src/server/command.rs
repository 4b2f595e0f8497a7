//! The commands: a table with a row for each verb, from which HELP, `--allow` and METRICS have
//! their lists, and for each a handler that decides what is to be done.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use crate::server::settings::{Context, Settings};
use llama_cpp_bridge::protocol::framing::Request;
use llama_cpp_bridge::protocol::generate;
use llama_cpp_bridge::protocol::reply::{Info, NO_MODEL, Reply};
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::{Generate, Turn, Work};
use llama_cpp_bridge::shared::settings::processors;

/// Characters of an unknown verb that its error reply repeats.
const SHOWN_WORD: usize = 64;

/// The name for requests whose verb is not in the table, or that could not be read.
pub const UNKNOWN: &str = "unknown";

/// Characters of the name of a saved state at most: so its file has a name that every file
/// system takes.
const LONGEST_NAME: usize = 64;

/// What is to be done for a request.
pub enum Action {
    /// Answer it when its turn comes, by what is known then.
    Tell(fn(&Context) -> Reply),
    /// Give these jobs to the model, and answer it when all are done.
    Ask(Vec<Work>),
    /// Load this file.
    Load(String),
    /// Unload the model.
    Free,
    /// Stop the bridge.
    Quit,
    /// Look whether this token is one of those that the bridge knows.
    Auth(String),
}

/// What follows a verb.
enum Argument {
    /// Nothing may.
    None,
    /// Something must; without it the reply is this sentence.
    Needed(&'static str),
}

/// A verb.
pub struct Command {
    /// In upper case.
    name: &'static str,
    argument: Argument,
    /// Its line in the reply of HELP.
    usage: &'static str,
    handler: fn(&str, &Settings) -> Result<Action, Failure>,
    /// Whether it waits for all requests before it, and those after it wait for it.
    alone: bool,
    /// Whether everybody may use it who is served at all, without a token and whatever `--allow`
    /// says: to see that the bridge is there, and to get at the other verbs.
    always: bool,
}

/// All verbs, as in llama-cpp-bridge(7).
static COMMANDS: &[Command] = &[
    row("PING", "PING: test the connection", ping).always(),
    row("STATUS", "STATUS: tell which model is loaded", status),
    row("INFO", "INFO: describe the bridge and its model", info),
    row("HELP", "HELP: list the commands", help),
    row(
        "METRICS",
        "METRICS: report counters for Prometheus",
        metrics,
    ),
    row("LOAD", "LOAD PATH: load a GGUF file", load)
        .needs("No model path provided")
        .alone(),
    row("INFER", "INFER PROMPT: generate text after a prompt", infer).needs("No prompt provided"),
    row("STREAM", "STREAM PROMPT: the same, piece by piece", stream).needs("No prompt provided"),
    row("CHAT", "CHAT MESSAGE: answer a message", chat).needs("No message provided"),
    row(
        "GENERATE",
        "GENERATE OBJECT: generate as a JSON object says",
        generate,
    )
    .needs("No request object provided"),
    row(
        "EMBED",
        "EMBED TEXT: compute the embedding of a text",
        embed,
    )
    .needs("No text provided"),
    row("TOKENIZE", "TOKENIZE TEXT: turn text into tokens", tokenize).needs("No text provided"),
    row(
        "DETOKENIZE",
        "DETOKENIZE ID...: turn tokens into text",
        detokenize,
    )
    .needs("No tokens provided"),
    row(
        "SAVE",
        "SAVE NAME: store the evaluated text under a name",
        save,
    )
    .needs("No name provided")
    .alone(),
    row("RESTORE", "RESTORE NAME: bring a stored text back", restore)
        .needs("No name provided")
        .alone(),
    row("FREE", "FREE: unload the model", free).alone(),
    row("QUIT", "QUIT: stop the bridge", quit).alone(),
    row("AUTH", "AUTH TOKEN: authenticate the client", auth)
        .needs("No token provided")
        .alone()
        .always(),
];

/// A verb without an argument, which may be answered while others are under way.
const fn row(
    name: &'static str,
    usage: &'static str,
    handler: fn(&str, &Settings) -> Result<Action, Failure>,
) -> Command {
    Command {
        name,
        argument: Argument::None,
        usage,
        handler,
        alone: false,
        always: false,
    }
}

impl Command {
    const fn needs(mut self, missing: &'static str) -> Self {
        self.argument = Argument::Needed(missing);
        self
    }

    const fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    const fn always(mut self) -> Self {
        self.always = true;
        self
    }

    /// Whether the bridge was started with this verb allowed.
    fn is_allowed(&self, settings: &Settings) -> bool {
        let listed = |allowed: &Vec<String>| allowed.iter().any(|verb| verb == self.name);
        self.always || settings.allow.as_ref().is_none_or(listed)
    }
}

/// The names of all verbs, in upper case.
pub fn verbs() -> Vec<&'static str> {
    COMMANDS.iter().map(|command| command.name).collect()
}

/// The names under which requests are counted.
pub fn counted() -> impl Iterator<Item = &'static str> {
    verbs().into_iter().chain([UNKNOWN])
}

/// A request, taken apart.
pub struct Prepared {
    /// Its verb in upper case, or [`UNKNOWN`].
    pub verb: &'static str,
    /// Whether it has to be worked on alone.
    pub alone: bool,
    /// What is to be done for it, or the failure that answers it instead.
    pub action: Result<Action, Failure>,
}

/// Finds out what is to be done for a request of a client that has shown a token, or needs none, if
/// `authenticated`.
pub fn prepare(request: &Request, settings: &Settings, authenticated: bool) -> Prepared {
    let (verb, argument) = request.split();
    let mut commands = COMMANDS.iter();
    let command = commands.find(|command| command.name.eq_ignore_ascii_case(verb));
    let action = if authenticated || command.is_some_and(|command| command.always) {
        command
            .ok_or_else(|| unknown(verb))
            .and_then(|command| action(command, argument, settings))
    } else {
        let message = "Not authenticated: this bridge needs AUTH TOKEN first";
        Err(Failure::new(Code::Unauthenticated, message))
    };
    Prepared {
        verb: command.map_or(UNKNOWN, |command| command.name),
        alone: command.is_some_and(|command| command.alone),
        action,
    }
}

fn unknown(verb: &str) -> Failure {
    let word: String = verb.chars().take(SHOWN_WORD).collect();
    Failure::new(Code::UnknownCommand, format!("Unknown command: {word}"))
}

fn action(command: &Command, argument: &str, settings: &Settings) -> Result<Action, Failure> {
    if !command.is_allowed(settings) {
        let message = format!("{} is not allowed on this bridge", command.name);
        return Err(Failure::new(Code::Denied, message));
    }
    match command.argument {
        Argument::None if !argument.is_empty() => {
            let message = format!("{} takes no argument", command.name);
            Err(Failure::bad_request(message))
        }
        Argument::Needed(missing) if argument.is_empty() => Err(Failure::bad_request(missing)),
        _ => (command.handler)(argument, settings),
    }
}

fn ping(_: &str, _: &Settings) -> Result<Action, Failure> {
    Ok(Action::Tell(|_| Reply::message("pong")))
}

fn status(_: &str, _: &Settings) -> Result<Action, Failure> {
    Ok(Action::Tell(|context| {
        Reply::message(match context.slot.model() {
            Some(model) => format!("Model loaded: {}", model.path()),
            None => NO_MODEL.to_string(),
        })
    }))
}

fn info(_: &str, _: &Settings) -> Result<Action, Failure> {
    Ok(Action::Tell(|context| {
        let params = &context.settings.params;
        let about = context.slot.model().map(|model| {
            Box::new(Info {
                model: model.path().to_string(),
                threads: params.threads.unwrap_or_else(processors),
                parallel: params.parallel,
                ready: model.ready.clone(),
            })
        });
        let model = context.slot.model();
        let lacks = model.map_or(&[][..], |model| &model.ready.sandbox_lacks);
        Reply::Info {
            sandbox: context.settings.sandbox.lacking_also(lacks),
            model: about,
        }
    }))
}

fn help(_: &str, _: &Settings) -> Result<Action, Failure> {
    Ok(Action::Tell(|context| {
        let mut allowed = COMMANDS.iter().collect::<Vec<_>>();
        allowed.retain(|command| command.is_allowed(&context.settings));
        let usages: Vec<&str> = allowed.iter().map(|command| command.usage).collect();
        Reply::Data {
            message: "Commands",
            data: usages.join("\n"),
        }
    }))
}

fn metrics(_: &str, _: &Settings) -> Result<Action, Failure> {
    Ok(Action::Tell(|context| Reply::Data {
        message: "Metrics",
        data: context.metrics_text(),
    }))
}

fn load(path: &str, _: &Settings) -> Result<Action, Failure> {
    Ok(Action::Load(path.to_string()))
}

fn free(_: &str, _: &Settings) -> Result<Action, Failure> {
    Ok(Action::Free)
}

fn quit(_: &str, _: &Settings) -> Result<Action, Failure> {
    Ok(Action::Quit)
}

fn auth(token: &str, _: &Settings) -> Result<Action, Failure> {
    Ok(Action::Auth(token.to_string()))
}

fn infer(prompt: &str, settings: &Settings) -> Result<Action, Failure> {
    Ok(generation(Generate {
        prompt: Some(prompt.to_string()),
        ..defaults(settings)
    }))
}

fn stream(prompt: &str, settings: &Settings) -> Result<Action, Failure> {
    Ok(generation(Generate {
        prompt: Some(prompt.to_string()),
        stream: true,
        ..defaults(settings)
    }))
}

fn chat(message: &str, settings: &Settings) -> Result<Action, Failure> {
    let turn = Turn {
        role: "user".to_string(),
        content: message.to_string(),
    };
    Ok(generation(Generate {
        messages: Some(vec![turn]),
        ..defaults(settings)
    }))
}

fn generate(object: &str, settings: &Settings) -> Result<Action, Failure> {
    generate::parse(object, defaults(settings)).map(generation)
}

/// A request with everything as the command line sets it, and yet without a prompt.
fn defaults(settings: &Settings) -> Generate {
    // The standard library's source of randomness.
    let random = || RandomState::new().build_hasher().finish() as u32;
    Generate {
        prompt: None,
        messages: None,
        max_tokens: settings.max_tokens,
        sampling: settings.sampling.clone(),
        seed: settings.seed.unwrap_or_else(random),
        stop: Vec::new(),
        grammar: None,
        json_schema: None,
        stream: false,
        ignore_eos: false,
        cache_prompt: true,
    }
}

fn generation(request: Generate) -> Action {
    Action::Ask(vec![Work::Generate(Box::new(request))])
}

fn embed(text: &str, _: &Settings) -> Result<Action, Failure> {
    Ok(Action::Ask(vec![Work::Embed(text.to_string())]))
}

fn tokenize(text: &str, _: &Settings) -> Result<Action, Failure> {
    Ok(Action::Ask(vec![Work::Tokenize(text.to_string())]))
}

fn detokenize(ids: &str, _: &Settings) -> Result<Action, Failure> {
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
    Ok(Action::Ask(vec![Work::Detokenize(ids)]))
}

/// The model stores what it evaluated last.
fn save(name: &str, settings: &Settings) -> Result<Action, Failure> {
    expect_state_name(name, settings)?;
    Ok(Action::Ask(vec![Work::Save(name.to_string())]))
}

/// The model brings a stored text back.
fn restore(name: &str, settings: &Settings) -> Result<Action, Failure> {
    expect_state_name(name, settings)?;
    Ok(Action::Ask(vec![Work::Restore(name.to_string())]))
}

/// Looks whether this is the name of a saved state, and whether there can be any.
fn expect_state_name(name: &str, settings: &Settings) -> Result<(), Failure> {
    if settings.params.state_dir.is_none() {
        let message = "The bridge was started without --state-dir and keeps no states";
        return Err(Failure::new(Code::Denied, message));
    }
    let takes = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.len() <= LONGEST_NAME && name.bytes().all(takes) && name != "." && name != ".." {
        return Ok(());
    }
    Err(Failure::bad_request(format!(
        "A name of a state is 1 to {LONGEST_NAME} of the characters A-Z a-z 0-9 . _ -, and not \
         '.' or '..'"
    )))
}
