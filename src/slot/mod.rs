//! The model slot: at most one model, and the process that holds it while there is one.
//!
//! Shown to others: [`Slot`] and what it reports of itself and of the model, and the model program.

mod counters;
mod ending;
mod events;
mod fd_passing;
mod loading;
mod model_dir;
mod model_file;
mod model_log;
mod model_program;
mod model_slot;
mod monitor;
mod process;
mod rate;
mod states;
mod worker;

pub(crate) use events::{Event, LoadStatus, Readiness};
pub(crate) use loading::Origin;
pub(crate) use model_dir::ModelDir;
pub(crate) use model_program::ModelProgram;
pub(crate) use model_slot::{Limits, STATES, Slot};

/// Removes what a bridge that was killed may have left behind.
pub(crate) fn clean_up() {
    fd_passing::Links::remove_abandoned();
}
