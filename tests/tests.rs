//! Tests of the built programs, over real sockets and with real models; a module per chapter.

mod harness;
// What only the programs use of the table.
#[allow(dead_code)]
#[path = "../src/limits.rs"]
mod limits;
// The rules for the number of threads, which depend on nothing else.
#[path = "../src/model/gain.rs"]
mod gain;
#[path = "../src/model/share.rs"]
mod share;

mod access;
mod activation;
mod amx;
mod answers;
mod auth;
mod batch;
mod cancel;
mod chat;
mod chat_attacks;
mod chat_safety;
mod checkpoints;
mod clients;
mod deploy;
mod deploy_build;
mod deploy_kernels;
mod embed;
mod generate_fields;
mod generate_syntax;
mod grammar;
mod grammar_limits;
mod guess;
mod haproxy;
mod idle;
mod in_flight;
mod inferno;
mod journal;
mod llambo;
mod llambo_auth;
mod llambo_chat;
mod llambo_completions;
mod llambo_faults;
mod llambo_input;
mod llambo_ls;
mod llambo_manual;
mod llambo_map;
mod llambo_map_input;
mod llambo_map_lost;
mod load;
mod long_texts;
mod manuals;
mod memory;
mod metrics;
mod metrics_examples;
mod metrics_file;
mod mixtures;
mod model_dir;
mod model_options;
mod notify;
mod options;
mod packages;
mod preload;
mod processes;
mod prompt_cache;
mod protocol;
mod real_model;
mod request_log;
mod requests;
mod resting;
mod sampling;
mod sampling_options;
mod sandbox;
mod schema;
mod schema_refusals;
mod signals;
mod socket;
mod split;
mod state;
mod state_files;
mod stream;
mod threads;
mod threads_policy;
mod time_limits;
mod tokens;
mod units;
