//! The command line of the listening program: names, ranges and defaults of all options.
//!
//! Shown to others: [`parse`] and the [`Options`] that come of it.

mod options;
mod values;

pub(crate) use options::{Invocation, Options, parse};
