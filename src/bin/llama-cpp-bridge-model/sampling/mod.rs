//! How the next token is chosen, and what a grammar allows.

pub(crate) mod constraint;
pub(crate) mod gbnf;
pub(crate) mod grammar_check;
pub(crate) mod logits;
pub(crate) mod sampler;
pub(crate) mod token_index;
