//! Tests of the built programs, over real sockets and with real models; a folder per room of `src/`,
//! and a module per chapter in it.

mod harness;
// The rules for the number of threads, which depend on nothing else.
#[path = "../src/bin/llama-cpp-bridge-model/tuning/cpu_share.rs"]
mod cpu_share;
#[path = "../src/bin/llama-cpp-bridge-model/tuning/thread_count.rs"]
mod thread_count;
/// What reads grammars before llama.cpp does, with the tests beside it. The model program as a test
/// program of its own would be linked to llama.cpp once more.
#[path = "../src/bin/llama-cpp-bridge-model/sampling"]
mod sampling {
    mod gbnf;
    mod grammar_check;
}

mod cli;
mod deploy;
mod docs;
mod inferno;
mod llambo;
mod model;
mod protocol;
mod server;
mod slot;
