//! Files by descriptors: opened beyond doubt, and handed to another process.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// Opens a file for reading by an absolute path that has no symbolic links, step by step, and follows
/// none that has been put there meanwhile. A FIFO or a device does not hold it up.
///
/// # Errors
/// Those of openat(2); `InvalidInput` for a path that is not as described.
pub(crate) fn open_without_links(path: &Path) -> io::Result<File> {
    let mut components = path.components();
    if components.next() != Some(Component::RootDir) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut here = File::open("/")?;
    let mut components = components.peekable();
    while let Some(component) = components.next() {
        let Component::Normal(name) = component else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let name = CString::new(name.as_bytes())?;
        let kind = match components.peek() {
            Some(_) => libc::O_DIRECTORY,
            None => libc::O_NONBLOCK | libc::O_NOCTTY,
        };
        let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_CLOEXEC | kind;
        // SAFETY: the name ends with NUL and outlives the call; openat(2) gives a descriptor that
        // nobody else owns, or -1.
        here = unsafe {
            match libc::openat(here.as_raw_fd(), name.as_ptr(), flags) {
                -1 => return Err(io::Error::last_os_error()),
                fd => File::from_raw_fd(fd),
            }
        };
    }
    Ok(here)
}

/// Another descriptor of a file, which all processes inherit that are started while it is open.
///
/// # Errors
/// Those of fcntl(2).
pub(crate) fn inheritable(file: &File) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(2) gives a descriptor that nobody else owns, or -1. The first three have other
    // uses in the new process.
    unsafe {
        match libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, 3) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Asks the system to read a part of a file into its cache soon; `offset` and `length` are bytes.
///
/// # Errors
/// Those of posix_fadvise(2); `Unsupported` where there is no such call.
pub(crate) fn will_need(file: &File, offset: u64, length: u64) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "freebsd"))]
    {
        let (offset, length) = (offset as libc::off_t, length as libc::off_t);
        let advice = libc::POSIX_FADV_WILLNEED;
        // SAFETY: the call takes numbers and a descriptor that is open, and returns an error.
        match unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, length, advice) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
    {
        let _ = (file, offset, length);
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }
}
