//! The sandbox: what the model process gives up before it reads a model. A model file is read by code
//! that was not written for hostile ones, so before the first byte of it is read, the process gives up
//! what it does not need: all files but the model's, saved states and some of the system's figures; the
//! system calls by which a process reaches others; and to take more of what is limited. All of this
//! is Linux's own, needs no privileges, and is inherited by each thread that is started later.
//!
//! Shown to others: [`enter`] and [`settle`].

#[cfg(target_os = "linux")]
mod allowed;
#[cfg(all(test, target_os = "linux"))]
mod calls;
#[cfg(target_os = "linux")]
mod denied;
#[cfg(target_os = "linux")]
mod filter;
#[cfg(target_os = "linux")]
mod landlock;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod none;
#[cfg(target_os = "linux")]
mod numbers;
#[cfg(all(test, target_os = "linux"))]
mod tests;

#[cfg(target_os = "linux")]
pub(crate) use linux::{enter, settle};
#[cfg(not(target_os = "linux"))]
pub(crate) use none::{enter, settle};
