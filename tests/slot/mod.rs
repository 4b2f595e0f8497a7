//! The model slot: loading, the model program, and what becomes of a model.

mod boundary;
mod floods;
mod idle;
mod loading;
mod memory;
mod model_dir;
mod model_program;
mod opened_files;
mod processes;
mod saved_states;
mod split_files;
mod undead;
mod unloaded;
