//! What a program at a terminal needs: Ctrl-C, and whether there is a standard output.

use std::sync::atomic::{AtomicBool, Ordering};

/// True if the process was started without a standard output, as by `>&-`.
static OUTPUT_CLOSED: AtomicBool = AtomicBool::new(false);

/// Has [`look`] called before the standard library's own start, which opens /dev/null in place of a
/// closed standard output, so that nobody can find out any more.
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
pub fn output_is_closed() -> bool {
    OUTPUT_CLOSED.load(Ordering::Relaxed)
}

/// Keeps SIGINT from ending the process, or lets it again: for this thread and those that it starts
/// from now on. One that comes meanwhile waits for [`wait_for_interrupt`].
pub fn hold_interrupts(hold: bool) {
    let how = if hold {
        libc::SIG_BLOCK
    } else {
        libc::SIG_UNBLOCK
    };
    let set = interrupt();
    // SAFETY: the set is a local that outlives the call, which cannot fail with these arguments.
    unsafe {
        libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut());
    }
}

/// Waits for a SIGINT that is held.
pub fn wait_for_interrupt() {
    let set = interrupt();
    let mut signal = 0;
    // SAFETY: both pointers are to locals that outlive the call.
    unsafe {
        libc::sigwait(&raw const set, &raw mut signal);
    }
}

/// The set of signals that holds SIGINT alone.
fn interrupt() -> libc::sigset_t {
    // SAFETY: a set is plain data, which sigemptyset fills.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        set
    }
}
