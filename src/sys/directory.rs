//! A directory that is held open: what is done in it happens there, whatever takes its path
//! meanwhile, and goes through no symbolic link.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::sys::descriptors::open_at;

/// An open directory.
pub struct Directory(File);

impl Directory {
    /// Opens the directory at this path.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_DIRECTORY);
        options.open(path).map(Self)
    }

    /// Opens the directory of this name in it.
    ///
    /// # Errors
    /// Those of openat(2): ENOTDIR also for a symbolic link.
    pub fn directory(&self, name: &str) -> io::Result<Self> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        open_at(&self.0, &CString::new(name)?, flags).map(Self)
    }

    /// Makes a directory in it, for its owner alone.
    ///
    /// # Errors
    /// Those of mkdirat(2).
    pub fn make_directory(&self, name: &str) -> io::Result<()> {
        let name = CString::new(name)?;
        // SAFETY: the name ends with NUL and outlives the call.
        check(unsafe { libc::mkdirat(self.0.as_raw_fd(), name.as_ptr(), 0o700) })
    }

    /// Opens a file in it for reading. A FIFO or a device does not hold it up.
    ///
    /// # Errors
    /// Those of openat(2): ELOOP for a symbolic link.
    pub fn file(&self, name: &str) -> io::Result<File> {
        let kind = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
        open_at(&self.0, &CString::new(name)?, libc::O_RDONLY | kind)
    }

    /// Creates a file in it, for its owner alone; it is open for writing.
    ///
    /// # Errors
    /// Those of openat(2): EEXIST where the name is taken.
    pub fn create(&self, name: &str) -> io::Result<File> {
        let name = CString::new(name)?;
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
        // SAFETY: the name ends with NUL and outlives the call; openat(2) gives a descriptor that
        // nobody else owns, or -1.
        unsafe {
            match libc::openat(self.0.as_raw_fd(), name.as_ptr(), flags, 0o600) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(File::from_raw_fd(fd)),
            }
        }
    }

    /// Gives what has a name in it another one, in this or another directory.
    ///
    /// # Errors
    /// Those of renameat(2).
    pub fn rename(&self, from: &str, to: &Self, name: &str) -> io::Result<()> {
        let (from, name) = (CString::new(from)?, CString::new(name)?);
        let (old, new) = (self.0.as_raw_fd(), to.0.as_raw_fd());
        // SAFETY: both names end with NUL and outlive the call.
        check(unsafe { libc::renameat(old, from.as_ptr(), new, name.as_ptr()) })
    }

    /// Removes a file.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.unlink(name, 0)
    }

    /// Removes a directory that is empty.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn remove_directory(&self, name: &str) -> io::Result<()> {
        self.unlink(name, libc::AT_REMOVEDIR)
    }

    fn unlink(&self, name: &str, flags: libc::c_int) -> io::Result<()> {
        let name = CString::new(name)?;
        // SAFETY: the name ends with NUL and outlives the call.
        check(unsafe { libc::unlinkat(self.0.as_raw_fd(), name.as_ptr(), flags) })
    }

    /// The directory itself, to be locked or synced.
    pub fn itself(&self) -> &File {
        &self.0
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
