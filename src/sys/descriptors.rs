//! Descriptors that are passed in, opened below a directory, or inherited.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first that sd_listen_fds(3) passes: SD_LISTEN_FDS_START.
const PASSED: RawFd = 3;

/// Keeps programs that are started from now on from inheriting any descriptor that is open now, but
/// for standard input, output and error: whoever started this process may have left more open than
/// it knows of. They stay open here, as an option may name one, `/dev/fd/63` for instance.
pub fn close_all_on_exec() {
    #[cfg(target_os = "linux")]
    {
        /// Linux 5.11.
        const CLOEXEC: libc::c_uint = 1 << 2;
        // SAFETY: close_range(2) takes plain numbers, and with this flag closes nothing here.
        let result =
            unsafe { libc::syscall(libc::SYS_close_range, PASSED, libc::c_uint::MAX, CLOEXEC) };
        if result == 0 {
            return;
        }
    }
    for fd in open_descriptors() {
        // SAFETY: fcntl(2) with these commands takes plain numbers, and fails for a descriptor that
        // is not open.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// The descriptors from the first that may be passed on that are open, or all that could be where
/// the system does not list them.
fn open_descriptors() -> Vec<RawFd> {
    let listed = std::fs::read_dir("/dev/fd").map(|entries| {
        let names = entries.flatten().map(|entry| entry.file_name());
        names
            .filter_map(|name| name.to_str()?.parse().ok())
            .collect()
    });
    let all = || {
        let most = super::process::configured(libc::_SC_OPEN_MAX).unwrap_or(1024);
        (0..most.min(1 << 16) as RawFd).collect()
    };
    let mut open: Vec<RawFd> = listed.unwrap_or_else(|_| all());
    open.retain(|fd| *fd >= PASSED);
    open
}

/// Takes over descriptor 3, and keeps further programs from inheriting it. To be called before
/// anything is opened, which would get this number where none was passed.
///
/// # Errors
/// EBADF where it is not open, or was taken before; those of fcntl(2).
pub fn take_passed() -> io::Result<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: fcntl(2) with these commands takes plain numbers, and fails for a descriptor that is
    // not open.
    let result = unsafe { libc::fcntl(PASSED, libc::F_SETFD, libc::FD_CLOEXEC) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, was passed to this process to own, and is taken here once.
    Ok(unsafe { OwnedFd::from_raw_fd(PASSED) })
}

/// Opens what has this name in a directory, as openat(2) does.
///
/// # Errors
/// Those of openat(2).
pub fn open_at(directory: &File, name: &CStr, flags: libc::c_int) -> io::Result<File> {
    // SAFETY: the name ends with NUL and outlives the call; openat(2) gives a descriptor that
    // nobody else owns, or -1.
    unsafe {
        match libc::openat(directory.as_raw_fd(), name.as_ptr(), flags) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(File::from_raw_fd(fd)),
        }
    }
}

/// Another descriptor of a file, which all processes inherit that are started while it is open.
///
/// # Errors
/// Those of fcntl(2).
pub fn inheritable(file: &File) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(2) gives a descriptor that nobody else owns, or -1. The first three have other
    // uses in the new process.
    unsafe {
        match libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, 3) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}
