//! The states of version 0.1, which lie in the directory itself, whatever model they are of. What
//! their labels say of it can be forged, so a state leaves that place for the directory of a model
//! only when it is asked for.

use std::io;
use std::os::unix::fs::MetadataExt;

use super::identity::Identity;
use super::state_dir::{StateDir, look, not_found};
use llama_cpp_bridge::shared::failure::Failure;
use llama_cpp_bridge::shared::settings::state_name;
use llama_cpp_bridge::shared::state_file::{
    OTHER_MODEL, Trailer, cannot, unreadable, unsupported, unusable,
};
use llama_cpp_bridge::sys::process::user;

/// Sees to it that the model's directory has the state of this name, if it is one of this model.
///
/// # Errors
/// `not_found` and `unsupported`, if there is none, or one of another model; `bad_request` for what
/// is not a state; `internal` for errors of the system.
pub(super) fn find(states: &StateDir, identity: &Identity, name: &str) -> Result<(), Failure> {
    if look(&states.own, name)?.is_some() {
        return Ok(());
    }
    match is_of(states, identity, name)? {
        Some(true) => (),
        None if !states.others_have(name) => return Err(not_found(name)),
        _ => return Err(unsupported(name, OTHER_MODEL)),
    }
    let failed = |error: io::Error| cannot("restore", name, &error.to_string());
    let file = state_name(name);
    let moved = states.root.rename(&file, &states.own, &file);
    moved.and_then(|()| states.sync()).map_err(failed)
}

/// Removes the state of this name and this model that a new one has replaced.
pub(super) fn replaced(states: &StateDir, identity: &Identity, name: &str) {
    if let Ok(Some(true)) = is_of(states, identity, name) {
        let _ = states.root.remove(&state_name(name));
    }
}

/// Whether the state of this name is of this model; `None` if there is none.
fn is_of(states: &StateDir, identity: &Identity, name: &str) -> Result<Option<bool>, Failure> {
    let Some(file) = look(&states.root, name)? else {
        return Ok(None);
    };
    let metadata = file.metadata().map_err(|error| unreadable(name, &error))?;
    if metadata.uid() != user() {
        return Err(unusable(name, "it belongs to another user"));
    }
    let label = Trailer::read(&file, metadata.len(), name)?.read_label(&file, name)?;
    let of_model = (label.model_bytes, label.model_hash);
    Ok(Some(of_model == (identity.bytes, identity.hash)))
}
