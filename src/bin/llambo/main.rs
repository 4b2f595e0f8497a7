//! llambo: asks a llama-cpp-bridge from the shell.

mod address;
mod auth;
mod chat;
mod completions;
mod connection;
mod editor;
mod failure;
mod generate;
mod help;
mod input;
mod interrupt;
#[cfg(feature = "line-editing")]
mod lines;
mod ls;
mod map;
#[cfg(not(feature = "line-editing"))]
mod no_lines;
mod options;
mod output;
mod progress;
mod queue;
mod raw;
mod reply;
mod table;
mod verbs;

use std::env;
use std::process::ExitCode;

use failure::Failure;
use llama_cpp_bridge::shared::endpoint::SOCKET_VARIABLE;
#[cfg(not(feature = "line-editing"))]
use no_lines as lines;
use options::Task;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::from(failure::DONE),
        Err(failure) => {
            output::tell(&failure.to_string());
            if let Failure::Usage(_) = failure {
                output::tell("see llambo --help");
            }
            ExitCode::from(failure.status())
        }
    }
}

/// Reads the command line and does what it asks.
fn run() -> Result<(), Failure> {
    let mut options = options::parse(
        env::args_os().skip(1),
        env::var_os(SOCKET_VARIABLE),
        env::var_os(auth::FILE_VARIABLE),
    )?;
    if let (Task::Interactive | Task::Command(_), Some(file)) = (&options.task, &options.auth_file)
    {
        options.token = Some(auth::token(file)?);
    }
    match &options.task {
        Task::Help(command) => output::print(&help::text(*command)),
        Task::Version => output::print(concat!("llambo ", env!("CARGO_PKG_VERSION"), "\n")),
        Task::Completions(shell) => output::print(&completions::script(shell)),
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
