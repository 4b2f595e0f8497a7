//! The descriptor that a program was started with beyond the three of every program, and what kind
//! of socket it is.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first that sd_listen_fds(3) passes: SD_LISTEN_FDS_START.
const FIRST: RawFd = 3;

/// Takes over descriptor 3, and keeps further programs from inheriting it. To be called before
/// anything is opened, which would get this number where none was passed.
///
/// # Errors
/// EBADF where it is not open, or was taken before; those of fcntl(2).
pub(crate) fn take() -> io::Result<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: fcntl(2) with these commands takes plain numbers, and fails for a descriptor that is
    // not open.
    let result = unsafe { libc::fcntl(FIRST, libc::F_SETFD, libc::FD_CLOEXEC) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, was passed to this process to own, and is taken here once.
    Ok(unsafe { OwnedFd::from_raw_fd(FIRST) })
}

/// The value of an option of a socket (SOL_SOCKET) that is a number.
///
/// # Errors
/// Those of getsockopt(2); ENOTSOCK for what is no socket.
pub(crate) fn option(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers are to locals that outlive the call, and the length is that of the value.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    match result {
        0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}
