//! Whether a file is open for writing anywhere, by what fcntl(2) tells of leases.

use std::fs::File;
use std::io;

/// The command that chooses the signal for a lease, which the libc crate lacks.
#[cfg(target_os = "linux")]
const F_SETSIG: libc::c_int = 10;

/// File systems over a network, by the numbers in statfs(2): NFS, CIFS and SMB 2.
#[cfg(target_os = "linux")]
const REMOTE: [u32; 3] = [0x6969, 0xff53_4d42, 0xfe53_4d42];

/// Whether any process has a file open for writing, or mapped to be written to; `file` has to be
/// open for reading alone.
///
/// # Errors
/// It cannot be told: those of fcntl(2) and fstatfs(2), and `Unsupported`.
#[cfg(target_os = "linux")]
pub fn is_open_for_writing(file: &File) -> io::Result<bool> {
    use std::os::fd::AsRawFd;

    let fd = file.as_raw_fd();
    // SAFETY: statfs is plain numbers, for which zeros are values.
    let mut system: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: fstatfs(2) writes to the structure that is passed and nowhere else.
    check(unsafe { libc::fstatfs(fd, &raw mut system) })?;
    // There a lease needs one of the server, and without it is refused as if somebody wrote.
    if REMOTE.contains(&(system.f_type as u32)) {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    // SAFETY: fcntl(2) with these commands takes plain numbers. The signal is sent to whoever has a
    // lease that another process breaks: one that is ignored, as the usual one ends the process.
    check(unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGURG) })?;
    // SAFETY: as before.
    match check(unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) }) {
        Ok(()) => {
            // SAFETY: as before.
            check(unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) })?;
            Ok(false)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

/// Only Linux has leases.
///
/// # Errors
/// `Unsupported`, always.
#[cfg(not(target_os = "linux"))]
pub fn is_open_for_writing(_: &File) -> io::Result<bool> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

#[cfg(target_os = "linux")]
fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
