//! The listening side: one loop, one client at a time, and what is known of each request.
//!
//! Shown to others: [`run`], which serves until it is told to stop, and [`verbs`].

mod access;
mod auth;
mod carry_out;
mod client;
mod command;
mod event_loop;
mod listener;
mod metrics;
mod pending_request;
mod rejected;
mod request_log;
mod session;
mod settings;

pub(crate) use command::verbs;
pub(crate) use event_loop::run;
