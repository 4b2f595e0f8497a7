//! Calls into foreign code: with a time limit, and with what they write to standard error.

use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

/// What [`abort_after`] writes when it ends the process.
const OVERDUE: &str = "llama.cpp did not finish with the grammar\n";

/// Does work that cannot be interrupted, and ends the process if it takes longer than this, which
/// is rounded down to seconds.
pub fn abort_after<T>(limit: Duration, work: impl FnOnce() -> T) -> T {
    // SAFETY: the structure is plain data, zeroed is its empty value, and the handler only does
    // what is allowed in one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_overdue as *const () as libc::sighandler_t;
        libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
        libc::alarm(limit.as_secs() as libc::c_uint);
    }
    let result = work();
    // SAFETY: alarm(2) takes and returns a number.
    unsafe { libc::alarm(0) };
    result
}

extern "C" fn on_overdue(_: libc::c_int) {
    let errors: RawFd = REAL_ERRORS.load(Ordering::Relaxed);
    // SAFETY: write(2) and _exit(2) are async-signal-safe; the text is static.
    unsafe {
        libc::write(errors, OVERDUE.as_ptr().cast(), OVERDUE.len());
        libc::_exit(1);
    }
}

/// Where standard error leads while [`capture_errors`] has it.
static REAL_ERRORS: AtomicI32 = AtomicI32::new(libc::STDERR_FILENO);

/// Does work, and returns what is written to standard error meanwhile, up to what a socket holds.
/// Where there are no descriptors left, nothing is captured.
pub fn capture_errors<T>(work: impl FnOnce() -> T) -> (T, String) {
    let pair = UnixStream::pair().and_then(|(reader, writer)| {
        reader.set_nonblocking(true)?;
        // What does not fit is lost: who writes there must not wait.
        writer.set_nonblocking(true)?;
        Ok((reader, writer))
    });
    // SAFETY: fcntl(2) makes a new descriptor or fails.
    let kept = unsafe { libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, 3) };
    let (Ok((mut reader, writer)), true) = (pair, kept >= 0) else {
        return (work(), String::new());
    };
    REAL_ERRORS.store(kept, Ordering::Relaxed);
    // SAFETY: both are descriptors of this process.
    unsafe { libc::dup2(writer.as_raw_fd(), libc::STDERR_FILENO) };
    let result = work();
    // SAFETY: as above; `kept` is not used afterwards.
    unsafe {
        libc::dup2(kept, libc::STDERR_FILENO);
        REAL_ERRORS.store(libc::STDERR_FILENO, Ordering::Relaxed);
        libc::close(kept);
    }
    drop(writer);
    let mut text = Vec::new();
    let _ = reader.read_to_end(&mut text);
    (result, String::from_utf8_lossy(&text).into_owned())
}
