//! The commands: a table of verbs, and a handler for each.

use crate::bridge::{Bridge, Session};
use crate::failure::{Code, Failure};
use crate::generate;
use crate::message::{Answer, Done, Generate, Turn, Work};
use crate::reply::{COMPLETED, Info, NO_MODEL, Reply};
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
    /// Its line in the reply of HELP.
    usage: &'static str,
    next: Next,
    handler: fn(&mut Bridge, &str, &Session<'_>) -> Handled,
}

/// All verbs, as in llama-cpp-bridge(7).
static COMMANDS: [Command; 14] = [
    Command {
        name: "PING",
        argument: Argument::None,
        usage: "PING: test the connection",
        next: Next::Continue,
        handler: ping,
    },
    Command {
        name: "STATUS",
        argument: Argument::None,
        usage: "STATUS: tell which model is loaded",
        next: Next::Continue,
        handler: status,
    },
    Command {
        name: "INFO",
        argument: Argument::None,
        usage: "INFO: tell all about the bridge and its model",
        next: Next::Continue,
        handler: info,
    },
    Command {
        name: "HELP",
        argument: Argument::None,
        usage: "HELP: list the commands",
        next: Next::Continue,
        handler: help,
    },
    Command {
        name: "LOAD",
        argument: Argument::Needed("No model path provided"),
        usage: "LOAD PATH: load a GGUF file",
        next: Next::Continue,
        handler: load,
    },
    Command {
        name: "INFER",
        argument: Argument::Needed("No prompt provided"),
        usage: "INFER PROMPT: generate text after a prompt",
        next: Next::Continue,
        handler: infer,
    },
    Command {
        name: "STREAM",
        argument: Argument::Needed("No prompt provided"),
        usage: "STREAM PROMPT: the same, piece by piece",
        next: Next::Continue,
        handler: stream,
    },
    Command {
        name: "CHAT",
        argument: Argument::Needed("No message provided"),
        usage: "CHAT MESSAGE: answer a message",
        next: Next::Continue,
        handler: chat,
    },
    Command {
        name: "GENERATE",
        argument: Argument::Needed("No request object provided"),
        usage: "GENERATE OBJECT: generate as a JSON object says",
        next: Next::Continue,
        handler: generate,
    },
    Command {
        name: "EMBED",
        argument: Argument::Needed("No text provided"),
        usage: "EMBED TEXT: compute the embedding of a text",
        next: Next::Continue,
        handler: embed,
    },
    Command {
        name: "TOKENIZE",
        argument: Argument::Needed("No text provided"),
        usage: "TOKENIZE TEXT: turn text into tokens",
        next: Next::Continue,
        handler: tokenize,
    },
    Command {
        name: "DETOKENIZE",
        argument: Argument::Needed("No tokens provided"),
        usage: "DETOKENIZE ID...: turn tokens into text",
        next: Next::Continue,
        handler: detokenize,
    },
    Command {
        name: "FREE",
        argument: Argument::None,
        usage: "FREE: unload the model",
        next: Next::Continue,
        handler: free,
    },
    Command {
        name: "QUIT",
        argument: Argument::None,
        usage: "QUIT: stop the bridge",
        next: Next::Stop,
        handler: quit,
    },
];

/// Carries a request out. The second part says how it goes on once the first has been sent.
pub(crate) fn execute(
    bridge: &mut Bridge,
    request: &str,
    session: &Session<'_>,
) -> (Handled, Next) {
    let (verb, argument) = split(request);
    match lookup(verb, argument) {
        Ok(command) => {
            let handled = (command.handler)(bridge, argument, session);
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

fn ping(_: &mut Bridge, _: &str, _: &Session<'_>) -> Handled {
    Ok(Reply::message("pong"))
}

fn status(bridge: &mut Bridge, _: &str, _: &Session<'_>) -> Handled {
    Ok(Reply::message(match bridge.slot.model() {
        Some(path) => format!("Model loaded: {path}"),
        None => NO_MODEL.to_string(),
    }))
}

fn info(bridge: &mut Bridge, _: &str, _: &Session<'_>) -> Handled {
    let slot = &bridge.slot;
    let about = slot.model().zip(slot.ready()).map(|(path, ready)| {
        Box::new(Info {
            model: path.to_string(),
            threads: bridge.options.load.threads,
            ready: ready.clone(),
        })
    });
    Ok(Reply::Info(about))
}

fn help(_: &mut Bridge, _: &str, _: &Session<'_>) -> Handled {
    let usages: Vec<&str> = COMMANDS.iter().map(|command| command.usage).collect();
    Ok(Reply::Data {
        message: "Commands",
        data: usages.join("\n"),
    })
}

fn load(bridge: &mut Bridge, path: &str, session: &Session<'_>) -> Handled {
    bridge.slot.load(path, session.watch())?;
    Ok(Reply::message("Model loaded successfully"))
}

fn infer(bridge: &mut Bridge, prompt: &str, session: &Session<'_>) -> Handled {
    let request = Generate {
        prompt: Some(prompt.to_string()),
        ..bridge.defaults()
    };
    Ok(Reply::Data {
        message: COMPLETED,
        data: complete(bridge, request, session)?.text,
    })
}

fn stream(bridge: &mut Bridge, prompt: &str, session: &Session<'_>) -> Handled {
    let request = Generate {
        prompt: Some(prompt.to_string()),
        stream: true,
        ..bridge.defaults()
    };
    complete(bridge, request, session).map(Reply::Completion)
}

fn chat(bridge: &mut Bridge, message: &str, session: &Session<'_>) -> Handled {
    let turn = Turn {
        role: "user".to_string(),
        content: message.to_string(),
    };
    let request = Generate {
        messages: Some(vec![turn]),
        ..bridge.defaults()
    };
    complete(bridge, request, session).map(Reply::Completion)
}

fn generate(bridge: &mut Bridge, object: &str, session: &Session<'_>) -> Handled {
    let request = generate::parse(object, bridge.defaults())?;
    complete(bridge, request, session).map(Reply::Completion)
}

fn complete(
    bridge: &mut Bridge,
    request: Generate,
    session: &Session<'_>,
) -> Result<Done, Unanswered> {
    let work = Work::Generate(Box::new(request));
    let mut sink = |piece: &str| session.send_piece(piece);
    match bridge.slot.ask(work, session.watch(), &mut sink)? {
        Answer::Generated(done) => Ok(*done),
        _ => Err(out_of_turn()),
    }
}

fn embed(bridge: &mut Bridge, text: &str, session: &Session<'_>) -> Handled {
    match ask(bridge, Work::Embed(text.to_string()), session)? {
        Answer::Embedding(embedding) => Ok(Reply::Embedding(embedding)),
        _ => Err(out_of_turn()),
    }
}

fn tokenize(bridge: &mut Bridge, text: &str, session: &Session<'_>) -> Handled {
    match ask(bridge, Work::Tokenize(text.to_string()), session)? {
        Answer::Tokens(tokens) => Ok(Reply::Tokens(tokens)),
        _ => Err(out_of_turn()),
    }
}

fn detokenize(bridge: &mut Bridge, ids: &str, session: &Session<'_>) -> Handled {
    let ids = ids
        .split_ascii_whitespace()
        .map(|id| {
            id.parse().map_err(|_| {
                Failure::bad_request(format!("'{id}' is not a token; a token is a whole number"))
            })
        })
        .collect::<Result<Vec<i32>, Failure>>()?;
    match ask(bridge, Work::Detokenize(ids), session)? {
        Answer::Text(data) => Ok(Reply::Data {
            message: "Detokenization completed",
            data,
        }),
        _ => Err(out_of_turn()),
    }
}

/// Asks for something that comes in one piece.
fn ask(bridge: &mut Bridge, work: Work, session: &Session<'_>) -> Result<Answer, Unanswered> {
    bridge
        .slot
        .ask(work, session.watch(), &mut |_: &str| Ok(()))
}

fn out_of_turn() -> Unanswered {
    Failure::new(
        Code::Internal,
        "The model process gave another answer than was asked for",
    )
    .into()
}

fn free(bridge: &mut Bridge, _: &str, _: &Session<'_>) -> Handled {
    bridge.slot.free();
    Ok(Reply::message("Resources freed"))
}

fn quit(bridge: &mut Bridge, _: &str, _: &Session<'_>) -> Handled {
    bridge.slot.free();
    Ok(Reply::message("Goodbye"))
}
