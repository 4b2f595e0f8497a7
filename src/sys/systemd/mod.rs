//! The protocols of systemd, which other supervisors speak too: sockets that are passed in, and
//! word of what a service does.

pub mod activation;
pub mod notify;
