//! The command line: the tables of commands and options, and the parser, the help and the completion
//! scripts that follow from them.
//!
//! Shown to others: [`parse`] and the [`Options`] that come of it, [`help()`], [`completions()`].

mod completions;
mod help;
mod options;
mod table;

pub(crate) use completions::script as completions;
pub(crate) use help::text as help;
pub(crate) use options::{Constraint, Options, Task, parse};
pub(crate) use table::{CommandRow, Sockets};
