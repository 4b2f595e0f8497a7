//! The system calls that the standard library does not offer, and what is built on them: poll(2),
//! signals, peers of a socket, memory and control groups, the log, systemd's protocols.
//!
//! All `unsafe` is here; every function is safe to call.

pub mod cgroup;
pub mod child;
pub mod descriptors;
pub mod directory;
pub mod exec;
pub mod files;
#[cfg(target_os = "linux")]
pub mod kernel;
pub mod lease;
pub mod log;
pub mod memory;
pub mod names;
pub mod peer;
pub mod poll;
pub mod process;
mod raw_poll;
mod signal_handler;
pub mod signals;
pub mod socket;
pub mod systemd;
pub mod terminal;
pub mod time;
pub mod watched_call;

// The unwinder goes into the programs, as the C++ library and OpenMP do: libgcc_s.so.1 would be the
// one library to load that a minimal host may lack.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[link(name = "gcc_eh", kind = "static", modifiers = "+whole-archive")]
unsafe extern "C" {}
