//! The model program: text, sampling, the prompt cache, threads, the sandbox.

mod answers;
mod batch;
mod chat;
mod chat_attacks;
mod chat_safety;
mod checkpoints;
mod embed;
mod grammar;
mod grammar_limits;
mod long_answers;
mod long_texts;
mod model_options;
mod old_states;
mod prefix_cache;
mod real_model;
mod sampling;
mod sampling_options;
mod sandbox;
mod saved_state;
mod speculative;
mod state_dir;
mod threads;
mod tokenizer;
