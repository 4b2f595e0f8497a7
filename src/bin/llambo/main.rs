//! llambo: asks a llama-cpp-bridge from the shell.
//!
//! [`cli`] reads the command line, [`connection`] reaches a bridge, and each command is a file or a
//! room (a folder) of its own: [`verbs`], [`generate`], [`raw`], [`ls`], [`map`], [`chat`]. A room shows
//! others what its `mod.rs` names and nothing else: its files are private modules.

// In a program nothing can be reached from outside; the walls are the private modules.
#![allow(unreachable_pub)]

mod chat;
mod cli;
mod connection;
mod failure;
mod generate;
mod input;
mod ls;
mod map;
mod output;
mod raw;
mod verbs;

use std::process::ExitCode;

use cli::Task;
use failure::Failure;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::from(failure::DONE),
        Err(failure) => {
            output::report(&failure.to_string());
            if let Failure::Usage(_) = failure {
                output::report("see llambo --help");
            }
            ExitCode::from(failure.status())
        }
    }
}

/// Reads the command line and does what it asks.
fn run() -> Result<(), Failure> {
    let mut options = cli::parse()?;
    if let (Task::Interactive | Task::Command(_), Some(file)) = (&options.task, &options.auth_file)
    {
        options.bridges.token = Some(input::token(file)?);
    }
    match &options.task {
        Task::Help(command) => output::print(&cli::help(*command)),
        Task::Version => output::print(concat!("llambo ", env!("CARGO_PKG_VERSION"), "\n")),
        Task::Completions(shell) => output::print(&cli::completions(shell)),
        Task::Interactive => chat::run(&options),
        Task::Command(command) => match command.name {
            "infer" => generate::run(&options, false),
            "chat" => chat::or_once(&options),
            "raw" => raw::run(&options),
            "ls" => ls::run(&options),
            "map" => map::run(options),
            _ => verbs::run(&options, command),
        },
    }
}
