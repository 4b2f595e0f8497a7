//! What the programs of this package share: [`shared`] is what the two sides of the model slot
//! agree on, [`protocol`] turns bytes into requests and replies into bytes, [`chat`] tells what in a
//! conversation a user wrote, [`sys`] holds the system calls, and with them all unsafe code.
//!
//! Nothing here is linked to llama.cpp: that is the model program's alone
//! (`src/bin/llama-cpp-bridge-model/`). The listening program is `src/main.rs`.

pub mod chat;
pub mod protocol;
pub mod shared;
#[allow(unsafe_code)]
pub mod sys;
