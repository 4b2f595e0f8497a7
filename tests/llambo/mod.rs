//! llambo, the client.

mod auth;
mod chat;
pub(crate) mod commands;
mod completions;
mod examples;
mod faults;
mod input;
mod ls;
mod manual;
pub(crate) mod map;
mod map_input;
mod map_lost;
