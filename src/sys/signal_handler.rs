//! Signal handlers: a byte into a pipe for each signal that is caught.

use std::io;
use std::os::fd::{IntoRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// Write end of the pipe that the signal handler writes to; -1 before [`signals_to`].
static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

/// Whether a signal has asked to stop: the pipe may be full and lose one.
static STOP_REQUESTED: AtomicBool = AtomicBool::new(false);

/// How often a byte is tried to be written for which there may be no memory: without it the end of a
/// model process goes unnoticed until somebody has waited ten seconds for it.
const TRIES: u32 = 10;

extern "C" fn on_signal(signal: libc::c_int) {
    if signal != libc::SIGCHLD {
        STOP_REQUESTED.store(true, Ordering::Relaxed);
    }
    let byte = signal as u8;
    let pipe: RawFd = SIGNAL_PIPE.load(Ordering::Relaxed);
    // SAFETY: write(2) is async-signal-safe. errno is put back for the code that was interrupted.
    // A full pipe loses the byte, which changes nothing: one is enough.
    unsafe {
        let errno = errno_location();
        let saved = *errno;
        for _ in 0..TRIES {
            let written = libc::write(pipe, (&raw const byte).cast(), 1);
            if written == 1 {
                break;
            }
        }
        *errno = saved;
    }
}

#[cfg(any(target_os = "macos", target_os = "ios", target_os = "freebsd"))]
unsafe fn errno_location() -> *mut libc::c_int {
    // SAFETY: always returns the calling thread's own errno.
    unsafe { libc::__error() }
}

#[cfg(not(any(target_os = "macos", target_os = "ios", target_os = "freebsd")))]
unsafe fn errno_location() -> *mut libc::c_int {
    // SAFETY: always returns the calling thread's own errno.
    unsafe { libc::__errno_location() }
}

/// Has the signals that are [caught](catch_signal) write a byte to this stream, for as long as the
/// process lives.
pub(super) fn signals_to(writer: UnixStream) {
    SIGNAL_PIPE.store(writer.into_raw_fd(), Ordering::Relaxed);
}

/// Whether a signal has come that asks to stop.
pub(super) fn stop_requested() -> bool {
    STOP_REQUESTED.load(Ordering::Relaxed)
}

/// Catches a signal.
///
/// # Errors
/// Those of sigaction(2).
pub(super) fn catch_signal(signal: libc::c_int) -> io::Result<()> {
    handle(signal, on_signal as *const () as libc::sighandler_t)
}

/// Ignores a signal, also in programs that are started from now on.
///
/// # Errors
/// Those of sigaction(2).
pub(super) fn ignore_signal(signal: libc::c_int) -> io::Result<()> {
    handle(signal, libc::SIG_IGN)
}

/// Whether a signal is ignored.
///
/// # Errors
/// Those of sigaction(2).
pub(super) fn is_ignored(signal: libc::c_int) -> io::Result<bool> {
    // SAFETY: the structure is plain data, which the call fills.
    let (result, action) = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let result = libc::sigaction(signal, std::ptr::null(), &raw mut action);
        (result, action)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(action.sa_sigaction == libc::SIG_IGN)
}

/// Sets what a signal does.
fn handle(signal: libc::c_int, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: the structure is plain data, zeroed is its empty value, and the only handler of this
    // program does no more than is allowed in one.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = libc::SA_RESTART | libc::SA_NOCLDSTOP;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut())
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Lets every signal through. A blocked one stays so over fork(2) and execve(2).
///
/// # Errors
/// Those of sigprocmask(2).
pub(super) fn unblock_signals() -> io::Result<()> {
    // SAFETY: the set is plain data, which sigemptyset fills.
    let result = unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
