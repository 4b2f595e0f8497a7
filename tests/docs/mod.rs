//! The manual pages and the examples: that they say what the code does.

pub(crate) mod manuals;
mod metrics_examples;
