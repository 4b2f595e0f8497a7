//! Tests of the built programs, over real sockets and with real models; a folder per room of `src/`,
//! and a module per chapter in it.

mod harness;

mod cli;
mod deploy;
mod docs;
mod inferno;
mod llambo;
mod model;
mod protocol;
mod server;
mod slot;
