//! The manual pages and the examples: that they say what the code does.

mod diagnostics;
mod dialogues;
mod guarantees;
mod manuals;
mod metrics_examples;
mod options;
pub(crate) mod page;
mod pages;
