//! `llama-cpp-bridge` serves a llama.cpp model over a Unix socket.
//!
//! The way of a request: [`bridge`] is the loop, which waits in one place and hands what happens
//! to the state that it belongs to. [`client`] takes bytes in, [`request`] cuts them into requests,
//! [`command`] says for each what is to be done, and [`session`] has it done, in order, as one
//! [`flight`] beside others: for a model through [`slot`], [`worker`] and [`process`]; behind the
//! socket pair of [`link`], in a process of its own, [`model`] runs llama.cpp; [`reply`] writes what
//! comes back. What it took is noted in its [`record`], and counted in [`metrics`].

mod access;
mod activation;
mod bridge;
mod client;
mod command;
mod control_group;
mod failure;
mod files;
mod flight;
mod gate;
mod generate;
mod handover;
mod identity;
mod json;
mod link;
mod loading;
// What only llambo and the tests use of the table.
#[allow(dead_code)]
mod limits;
mod log;
mod memory;
mod message;
mod metrics;
mod model;
mod model_dir;
mod notify;
mod openmp;
mod options;
mod peer;
mod poll;
mod preload;
mod process;
mod program;
mod record;
mod refused;
mod reply;
mod request;
mod schema;
mod session;
mod settings;
mod signals;
mod slot;
mod socket;
// What only llambo uses.
#[allow(dead_code, unsafe_code)]
mod system;
mod tally;
mod wire;
mod worker;

use std::io::{self, Write};
use std::process::ExitCode;

use log::Level;
use options::Invocation;

/// Exit status after a wrong command line.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    program::remember();
    let result = match options::parse(&command::verbs()) {
        Ok(Invocation::Serve(options)) => bridge::run(*options),
        Ok(Invocation::ModelProcess) => model::run(),
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
