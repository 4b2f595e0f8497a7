//! What is counted of the model slot, from the start of the bridge on.

use std::time::Duration;

/// What is counted of the slot.
#[derive(Default)]
pub(crate) struct SlotCounters {
    /// Loads that went well, and the time that they took.
    pub(crate) loads: u64,
    pub(crate) load_time: Duration,
    pub(crate) failed_loads: u64,
    /// Ends of the process of a loaded model that was not told to let it go.
    pub(crate) deaths: u64,
    /// Times that a model was left without a process.
    pub(crate) rests: u64,
}
