//! What both sides of the model slot agree on: settings and their ranges, errors, grammars, and the
//! messages on the socket pair that joins them.

pub mod build;
pub mod endpoint;
pub mod failure;
pub mod gbnf;
pub mod grammar_check;
pub mod link;
pub mod message;
pub mod parts;
pub mod ranges;
pub mod sandbox;
pub mod sentence;
pub mod settings;
pub mod split_files;
pub mod state_file;
pub mod token_file;
pub mod wire;
