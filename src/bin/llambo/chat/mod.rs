//! The conversation at a terminal: what is typed, what Ctrl-C stops, the turns so far.
//!
//! Shown to others: [`run`], and [`or_once`] for the command `chat`.

mod conversation;
mod editor;
mod interrupt;
mod line;
#[cfg(feature = "line-editing")]
mod lines;
#[cfg(not(feature = "line-editing"))]
mod no_lines;

#[cfg(not(feature = "line-editing"))]
use no_lines as lines;

pub(crate) use conversation::{or_once, run};
