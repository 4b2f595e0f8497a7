//! The commands that are one request and one reply.

use std::path::Path;

use crate::cli::{CommandRow, Options, Sockets};
use crate::connection::{Field, Reply};
use crate::failure::{self, Failure, usage};
use crate::input;
use crate::output;

/// Asks every bridge that was named, in their order, and prints what each says. A bridge that
/// fails does not keep the others from being asked; the worst exit status counts.
pub fn run(options: &Options, command: &CommandRow) -> Result<(), Failure> {
    let argument = argument(command.name, options)?;
    let verb = command.name.to_ascii_uppercase();
    if command.sockets == Sockets::FirstFree {
        let mut connection = options.bridges.connect()?;
        connection.request(&verb, &argument)?;
        return print(command.name, connection.reply()?, options.json, None);
    }
    let several = options.bridges.addresses.len() > 1;
    let mut worst = failure::DONE;
    for address in &options.bridges.addresses {
        let outcome = options
            .bridges
            .connect_to(address)
            .and_then(|mut connection| {
                // These take time; all others are answered at once.
                if !["load", "save", "restore"].contains(&command.name) {
                    return connection.quick(&verb);
                }
                connection.request(&verb, &argument)?;
                connection.reply()
            });
        let name = several.then(|| address.to_string());
        let outcome =
            outcome.and_then(|reply| print(command.name, reply, options.json, name.as_deref()));
        match outcome {
            Err(failure) if several && !matches!(failure, Failure::Output(_)) => {
                output::report(&failure.of(address));
                worst = worst.max(failure.status());
            }
            outcome => outcome?,
        }
    }
    failure::reported(worst)
}

/// The argument of the request.
fn argument(name: &str, options: &Options) -> Result<String, Failure> {
    match (name, options.operands.as_slice()) {
        ("load", [path]) => {
            // The bridge may run in another directory. Links are not resolved.
            let path = std::path::absolute(Path::new(path))
                .map_err(|error| usage!("cannot resolve the path of the model: {error}"))?;
            input::utf8(path.as_os_str())
        }
        ("save" | "restore", [name]) => input::utf8(name),
        ("embed" | "tokenize", _) => input::text(options),
        ("detokenize", _) => input::tokens(options),
        _ => Ok(String::new()),
    }
}

/// Prints a reply the way the command does; `name` is the bridge's, where several are asked.
fn print(command: &str, reply: Reply, json: bool, name: Option<&str>) -> Result<(), Failure> {
    if json {
        let line = match name {
            Some(name) => reply.line.replacen(
                '{',
                &format!("{{\"socket\":{},", output::json_string(name)),
                1,
            ),
            None => reply.line.clone(),
        };
        output::print_line(&line)?;
        return reply.reported().map(drop);
    }
    let reply = reply.into_result()?;
    let text = match command {
        "info" => fields(&reply),
        "detokenize" | "metrics" => reply.text("data").to_string(),
        "embed" => reply.numbers("embedding"),
        "tokenize" => reply.numbers("tokens"),
        "save" | "restore" => format!(
            "{}: {} tokens, {} bytes",
            reply.message,
            reply.count("state_tokens"),
            reply.count("state_bytes")
        ),
        _ => reply.message,
    };
    match name {
        // A single line goes beside the bridge's name, several go below it.
        Some(name) if text.contains('\n') => output::print_line(&format!("{name}:\n{text}")),
        Some(name) => output::print_line(&format!("{name}: {text}")),
        None => output::print_line(&text),
    }
}

/// The fields of a reply, one a line.
fn fields(reply: &Reply) -> String {
    let lines: Vec<String> = reply
        .fields
        .iter()
        .map(|(key, value)| match value {
            Field::Text(text) | Field::Json(text) => format!("{key}: {text}"),
        })
        .collect();
    lines.join("\n")
}
