//! What is kept of evaluated texts: in the cells of the context, in memory, and in files.
//!
//! Shown to others: [`PrefixCache`], which assigns a sequence ([`SeqId`]) to each prompt and keeps
//! what it leaves; [`SavedStates`], for SAVE and RESTORE; and how much memory checkpoints take, if
//! they are needed.

mod cells;
mod checkpoints;
mod host_cache;
mod prefix_cache;
mod saved_state;

pub(crate) use cells::{SeqId, common_prefix};
pub(crate) use checkpoints::{MAX_CHECKPOINT_BYTES, needs_checkpoints};
pub(crate) use prefix_cache::{Assignment, PrefixCache};
pub(crate) use saved_state::SavedStates;
