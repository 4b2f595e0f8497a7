//! Entering the sandbox.

use llama_cpp_bridge::shared::settings::ModelParams;
use llama_cpp_bridge::shared::split_files;
use llama_cpp_bridge::sys;

use super::{allowed, denied, landlock};

/// Bytes of a file beyond those of a saved state that the limit allows: its label and trailer.
const LABEL_BYTES: u64 = 1 << 14;

/// Descriptors that can be opened beyond those that are there at the entry and one for each part
/// of the model: for figures of the system, a saved state, and what is captured of errors.
const DESCRIPTORS: u64 = 32;

/// Enters the sandbox, for good. With the driver of a device it is wider: see [`denied`] and
/// [`landlock::restrict_writing`].
///
/// # Errors
/// What did not go as the kernel promised, for the log: the process can do without.
pub fn enter(load: &ModelParams, with_driver: bool) -> Result<(), String> {
    // The file with the rules of the time zone is read here, once.
    #[cfg(feature = "chat-template")]
    llama_cpp_bridge::sys::time::local_time("%Z");
    sys::process::give_up_new_privileges();
    if !with_driver {
        limit(load);
        sys::process::drop_capabilities();
    }
    let files = match (sys::kernel::landlock_version(), with_driver) {
        // The bridge has said so.
        (None, _) => Ok(()),
        (_, false) => landlock::restrict(load),
        (_, true) => landlock::restrict_writing(load),
    };
    let calls = match (sys::kernel::has_seccomp_filter(), with_driver) {
        (false, _) => Ok(()),
        (_, false) => allowed::keep(),
        (_, true) => denied::give_up(),
    };
    both(files.map_err(|error| format!("Landlock: {error}")), calls)
}

/// Gives up what was needed until the model was loaded.
///
/// # Errors
/// As of [`enter`].
pub fn settle(with_driver: bool) -> Result<(), String> {
    match with_driver || !sys::kernel::has_seccomp_filter() {
        true => Ok(()),
        false => allowed::settle(),
    }
}

/// Limits what the process can take of what others need: space in files, and descriptors.
fn limit(load: &ModelParams) {
    let states = load.states.as_ref();
    let bytes = states.map_or(0, |_| load.state_limit.saturating_add(LABEL_BYTES));
    sys::process::limit_files(bytes);
    let (open, highest) = sys::process::open_descriptors();
    let parts = split_files::parts(&load.file).len() as u64;
    sys::process::limit_descriptors(highest + 1 + open.max(parts) + DESCRIPTORS);
}

fn both(files: Result<(), String>, calls: Result<(), String>) -> Result<(), String> {
    let failed: Vec<String> = [files, calls].into_iter().filter_map(Result::err).collect();
    match failed.is_empty() {
        true => Ok(()),
        false => Err(failed.join("; ")),
    }
}
