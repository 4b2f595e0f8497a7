//! How tokens are decoded: which sequences are in a step, and what each does with its row.

pub(crate) mod draft;
pub(crate) mod engine;
pub(crate) mod scheduler;
pub(crate) mod sequence;
pub(crate) mod speculative;
