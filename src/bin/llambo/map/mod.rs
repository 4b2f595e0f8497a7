//! A prompt a line in, an answer a line out, shared among the bridges by whoever is free.
//!
//! Shown to others: [`run`].

mod progress;
mod queue;
mod work;

pub(crate) use work::run;
