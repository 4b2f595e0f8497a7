//! The sandbox: what the model process gives up before it reads a model.
//!
//! Shown to others: [`enter`].

#[cfg(target_os = "linux")]
mod landlock;
#[cfg(not(target_os = "linux"))]
mod none;
#[cfg(target_os = "linux")]
mod seccomp;

#[cfg(target_os = "linux")]
pub(crate) use landlock::enter;
#[cfg(not(target_os = "linux"))]
pub(crate) use none::enter;
