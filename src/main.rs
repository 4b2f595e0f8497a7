//! `llama-cpp-bridge` serves a llama.cpp model over a Unix socket.
//!
//! The way of a request: [`server`] has the loop, which waits in one place and hands what happens
//! to the state that it belongs to. A client's bytes are cut into requests by
//! [`protocol`](llama_cpp_bridge::protocol), a table of commands decides what is to be done for
//! each, and the session has it done, in order, along with others: for a model through [`slot`]. At
//! the other end of a socket pair runs llama.cpp, as a program of its own
//! (`src/bin/llama-cpp-bridge-model/`). [`cli`] is the command line.
//!
//! A room (a folder) shows others what its `mod.rs` names and nothing else: its files are private
//! modules, in which `pub` is for the room, and for the members of what is shown.

// In a program nothing can be reached from outside; the walls are the private modules.
#![allow(unreachable_pub)]

mod cli;
mod server;
mod slot;

use std::io::{self, Write};
use std::process::ExitCode;

use cli::Invocation;
use llama_cpp_bridge::sys::descriptors;
use llama_cpp_bridge::sys::log::{self, Level};

/// Exit status after a wrong command line.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    descriptors::close_all_on_exec();
    let result = match cli::parse(&server::verbs()) {
        Ok(Invocation::Serve(options)) => server::run(&options),
        Ok(Invocation::Print(text)) => {
            let printed = io::stdout().write_all(text.as_bytes());
            printed.map_err(|error| format!("standard output: {error}"))
        }
        Err(error) => {
            log::write(Level::Error, &format!("{error} (--help lists the options)"));
            return ExitCode::from(USAGE);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            log::write(Level::Error, &message);
            ExitCode::FAILURE
        }
    }
}
