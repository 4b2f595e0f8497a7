//! Tests of the built programs, over real sockets and with real models; a module per chapter.

mod harness;

mod cancel;
mod clients;
mod deploy;
mod generation;
mod infer;
mod inferno;
mod llambo;
mod llambo_chat;
mod llambo_completions;
mod llambo_faults;
mod llambo_input;
mod llambo_manual;
mod llambo_map;
mod load;
mod manuals;
mod options;
mod processes;
mod protocol;
mod real_model;
mod requests;
mod socket;
