//! Decoding: which requests for text are under way, which of their tokens a batch takes, and what
//! each of them does with its logits.
//!
//! Shown to others: [`Engine`], the loop that serves all requests.

mod draft;
mod engine;
mod scheduler;
mod sequence;
mod speculative;

pub(crate) use engine::Engine;
