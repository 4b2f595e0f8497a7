//! What llambo needs of the system and the standard library does not offer: whether there is a
//! standard output at all.
//!
//! All `unsafe` of llambo is here; every function below is safe to call.

use std::sync::atomic::{AtomicBool, Ordering};

/// True if the process was started without a standard output, as by `>&-`.
static OUTPUT_CLOSED: AtomicBool = AtomicBool::new(false);

/// Has [`look`] called before the standard library's own start, which opens /dev/null in place of a
/// closed standard output, so that nobody can tell any more.
#[used]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_init_func"))]
#[cfg_attr(not(target_os = "macos"), unsafe(link_section = ".init_array"))]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    // SAFETY: fcntl(2) with F_GETFD takes plain numbers and changes nothing.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    OUTPUT_CLOSED.store(flags == -1, Ordering::Relaxed);
}

/// Whether the process was started without a standard output.
pub(crate) fn output_is_closed() -> bool {
    OUTPUT_CLOSED.load(Ordering::Relaxed)
}
