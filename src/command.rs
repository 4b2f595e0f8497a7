//! The commands: a table of verbs, and a handler for each.

use crate::bridge::Bridge;
use crate::message::Generate;
use crate::process::Watch;
use crate::reply::{Code, Failure, Reply};
use crate::slot::Unanswered;

/// Characters of an unknown verb that its error reply repeats.
const SHOWN_WORD: usize = 64;

/// What becomes of the connection, and of the bridge, once a request is answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Next {
    /// The next request, please.
    Continue,
    /// The bridge stops.
    Stop,
}

/// What follows a verb.
enum Argument {
    /// Nothing may.
    None,
    /// Something must; without it the reply is this sentence.
    Needed(&'static str),
}

/// What a handler gives back.
type Handled = Result<Reply, Unanswered>;

/// A verb.
struct Command {
    /// In upper case.
    name: &'static str,
    argument: Argument,
    next: Next,
    handler: fn(&mut Bridge, &str, Watch<'_>) -> Handled,
}

/// All verbs, as in llama-cpp-bridge(7).
static COMMANDS: [Command; 6] = [
    Command {
        name: "PING",
        argument: Argument::None,
        next: Next::Continue,
        handler: ping,
    },
    Command {
        name: "STATUS",
        argument: Argument::None,
        next: Next::Continue,
        handler: status,
    },
    Command {
        name: "LOAD",
        argument: Argument::Needed("No model path provided"),
        next: Next::Continue,
        handler: load,
    },
    Command {
        name: "INFER",
        argument: Argument::Needed("No prompt provided"),
        next: Next::Continue,
        handler: infer,
    },
    Command {
        name: "FREE",
        argument: Argument::None,
        next: Next::Continue,
        handler: free,
    },
    Command {
        name: "QUIT",
        argument: Argument::None,
        next: Next::Stop,
        handler: quit,
    },
];

/// Carries a request out. The second part says how it goes on once the first has been sent.
pub(crate) fn execute(bridge: &mut Bridge, request: &str, watch: Watch<'_>) -> (Handled, Next) {
    let (verb, argument) = split(request);
    match lookup(verb, argument) {
        Ok(command) => {
            let handled = (command.handler)(bridge, argument, watch);
            (handled, command.next)
        }
        Err(failure) => (Err(failure.into()), Next::Continue),
    }
}

fn split(request: &str) -> (&str, &str) {
    let blank = [' ', '\t'];
    match request.find(blank) {
        Some(at) => (&request[..at], request[at..].trim_start_matches(blank)),
        None => (request, ""),
    }
}

fn lookup(verb: &str, argument: &str) -> Result<&'static Command, Failure> {
    let known = COMMANDS
        .iter()
        .find(|command| command.name.eq_ignore_ascii_case(verb));
    let Some(command) = known else {
        let word: String = verb.chars().take(SHOWN_WORD).collect();
        let message = format!("Unknown command: {word}");
        return Err(Failure::new(Code::UnknownCommand, message));
    };
    match command.argument {
        Argument::None if !argument.is_empty() => {
            let message = format!("{} takes no argument", command.name);
            Err(Failure::bad_request(message))
        }
        Argument::Needed(missing) if argument.is_empty() => Err(Failure::bad_request(missing)),
        _ => Ok(command),
    }
}

fn ping(_: &mut Bridge, _: &str, _: Watch<'_>) -> Handled {
    Ok(Reply::message("pong"))
}

fn status(bridge: &mut Bridge, _: &str, _: Watch<'_>) -> Handled {
    Ok(Reply::message(match bridge.slot.model() {
        Some(path) => format!("Model loaded: {path}"),
        None => "No model loaded".to_string(),
    }))
}

fn load(bridge: &mut Bridge, path: &str, watch: Watch<'_>) -> Handled {
    bridge.slot.load(path, watch)?;
    Ok(Reply::message("Model loaded successfully"))
}

fn infer(bridge: &mut Bridge, prompt: &str, watch: Watch<'_>) -> Handled {
    let generate = Generate {
        prompt: prompt.to_string(),
        max_tokens: bridge.options.max_tokens,
        sampling: bridge.options.sampling.clone(),
        seed: bridge.seed(),
    };
    let done = bridge.slot.generate(generate, watch)?;
    Ok(Reply::Data {
        message: "Inference completed",
        data: done.text,
    })
}

fn free(bridge: &mut Bridge, _: &str, _: Watch<'_>) -> Handled {
    bridge.slot.free();
    Ok(Reply::message("Resources freed"))
}

fn quit(bridge: &mut Bridge, _: &str, _: Watch<'_>) -> Handled {
    bridge.slot.free();
    Ok(Reply::message("Goodbye"))
}
