//! How many threads a step gets and how many tokens it takes, by what the machine has to spare.
//!
//! Shown to others: [`Threads`], for each step; [`StepEstimator`], which knows how long one takes; and
//! the numbers that a context is created with.

mod cpu_share;
mod stacks;
mod step_estimator;
mod thread_tuner;
mod threads;

pub(crate) use stacks::stacks;
pub(crate) use step_estimator::StepEstimator;
pub(crate) use threads::{Threads, requested_threads};
