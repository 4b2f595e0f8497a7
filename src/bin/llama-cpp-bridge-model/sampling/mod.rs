//! Sampling: how the next token is chosen, and what a grammar allows.
//!
//! Shown to others: [`Sampler`], which chooses for one request by [`Logits`]; and [`TokenIndex`],
//! which all samplers of a model share.

mod constraint;
mod logits;
mod sampler;
mod token_index;

pub(crate) use logits::{Logits, check_logits, not_finite};
pub(crate) use sampler::Sampler;
pub(crate) use token_index::TokenIndex;
