//! The manual pages and the examples: that they say what the code does.

mod manuals;
mod metrics_examples;
