//! Tests of the built programs, over real sockets and with real models; a folder per room of `src/`,
//! and a module per chapter in it.

mod harness;
// The rules for the number of threads, which depend on nothing else.
#[path = "../src/bin/llama-cpp-bridge-model/tuning/cpu_share.rs"]
mod cpu_share;
#[path = "../src/bin/llama-cpp-bridge-model/tuning/thread_count.rs"]
mod thread_count;

mod cli;
mod deploy;
mod docs;
mod inferno;
mod llambo;
mod model;
mod protocol;
mod server;
mod slot;
