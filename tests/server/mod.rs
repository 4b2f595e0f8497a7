//! The listening program: its socket, clients, limits and metrics.

mod access;
mod activation;
mod auth;
mod cancel;
mod clients;
mod full_log;
mod in_flight;
mod journal;
pub(crate) mod metrics;
mod metrics_file;
mod notify;
mod poll;
mod request_log;
mod signals;
mod socket;
mod time_limits;
