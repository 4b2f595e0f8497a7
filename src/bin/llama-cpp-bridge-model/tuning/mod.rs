//! How many threads, and how large a step, by what the machine has to spare.

pub(crate) mod cpu_share;
pub(crate) mod step_estimator;
pub(crate) mod thread_tuner;
pub(crate) mod threads;
