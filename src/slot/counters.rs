//! What is counted of the model slot, from the start of the bridge on.

use std::time::Duration;

/// What is counted of the slot.
#[derive(Default)]
pub struct SlotCounters {
    /// Loads that went well, and the time that they took.
    pub loads: u64,
    pub load_time: Duration,
    pub failed_loads: u64,
    /// Ends of the process of a loaded model that was not told to let it go.
    pub deaths: u64,
    /// Times that a model was left without a process.
    pub unloads: u64,
}
