//! The model slot: at most one model, and the process that holds it while there is one.
//!
//! Shown to others: [`Slot`] and what it tells of itself, the model program, and reading models ahead.

mod counters;
mod fd_passing;
mod loading;
mod model_dir;
mod model_file;
mod model_program;
mod model_slot;
mod preload;
mod process;
mod worker;

pub(crate) use loading::Origin;
pub(crate) use model_dir::ModelDir;
pub(crate) use model_program::ModelProgram;
pub(crate) use model_slot::{Event, Limits, LoadStatus, Readiness, STATES, Slot};
pub(crate) use preload::Preload;
pub(crate) use worker::Heard;
