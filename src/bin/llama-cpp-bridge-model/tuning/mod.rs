//! How many threads, and how large a step, by what the machine has to spare.

pub(crate) mod cpu_share;
pub(crate) mod step_time;
pub(crate) mod thread_count;
pub(crate) mod threads;
