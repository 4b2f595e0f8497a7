//! What is kept of evaluated texts: in the cells of the context, in memory, and in files.

pub(crate) mod cells;
pub(crate) mod checkpoints;
pub(crate) mod fingerprint;
pub(crate) mod host_cache;
pub(crate) mod prefix_cache;
pub(crate) mod saved_state;
pub(crate) mod state_dir;
