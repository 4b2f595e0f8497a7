//! Files that are opened beyond doubt.

use std::ffi::CString;
use std::fs::{File, FileType};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path};

use crate::sys;

/// Opens a file for reading by an absolute path that has no symbolic links, step by step, and
/// follows none that has been put there meanwhile. A FIFO or a device does not hold it up.
///
/// # Errors
/// Those of openat(2); `InvalidInput` for a path that is not as described.
pub fn open_without_links(path: &Path) -> io::Result<File> {
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
        here = sys::descriptors::open_at(&here, &name, flags)?;
    }
    Ok(here)
}

/// What a file is that is not a regular one.
pub fn special_kind(kind: FileType) -> Option<&'static str> {
    match () {
        () if kind.is_file() => None,
        () if kind.is_dir() => Some("a directory"),
        () if kind.is_symlink() => Some("a symbolic link"),
        () if kind.is_fifo() => Some("a FIFO"),
        () if kind.is_socket() => Some("a socket"),
        () if kind.is_char_device() => Some("a character device"),
        () if kind.is_block_device() => Some("a block device"),
        () => Some("not a regular file"),
    }
}
