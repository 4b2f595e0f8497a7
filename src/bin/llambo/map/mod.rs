//! A prompt a line in, an answer a line out, shared among the bridges by whoever is free.
//!
//! Shown to others: [`run`].

mod answer;
mod asker;
mod progress;
mod queue;
mod reader;
mod work;
mod writer;

use std::sync::Arc;
use std::thread;

use crate::cli::Options;
use crate::failure::Failure;
use crate::generate::Sampling;
use queue::Queue;
use work::Work;

/// Answers the lines of standard input.
pub fn run(options: Options) -> Result<(), Failure> {
    let sampling = Sampling::from_options(&options)?;
    let sockets = options.bridges.addresses.clone();
    let work = Arc::new(Work {
        options,
        sampling,
        queue: Queue::new(sockets.len()),
    });
    {
        let work = Arc::clone(&work);
        thread::spawn(move || reader::read(&work));
    }
    for (number, address) in sockets.into_iter().enumerate() {
        let work = Arc::clone(&work);
        thread::spawn(move || asker::ask(&work, number, &address));
    }
    writer::write(&work)
}
