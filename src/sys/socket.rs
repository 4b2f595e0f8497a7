//! What the standard library does not offer of Unix sockets.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Connects to a Unix socket and hangs up again, without ever waiting for the one that listens.
///
/// # Errors
/// Those of connect(2); on Linux `WouldBlock` where the queue of the one that listens is full.
pub fn connect_at_once(path: &Path) -> io::Result<()> {
    // SAFETY: the structure is plain data, zeroed is its empty value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    // One byte is for the NUL at the end.
    if bytes.len() >= address.sun_path.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    // SAFETY: socket(2) gives a descriptor that nobody else owns.
    let socket = unsafe {
        match libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) {
            -1 => return Err(io::Error::last_os_error()),
            socket => UnixStream::from_raw_fd(socket),
        }
    };
    socket.set_nonblocking(true)?;
    // SAFETY: the address is a sockaddr_un, and the length is that of the whole of it.
    let result = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_un>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has what comes out of band come in its place among the rest, as what it is here: a byte like all
/// others. Without this it would be waited for, but not read.
///
/// # Errors
/// Those of setsockopt(2).
pub fn inline_out_of_band(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the length is that of the number, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_OOBINLINE,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The value of an option of a socket (SOL_SOCKET), written into `value` as the kernel has it; and
/// its length in bytes, which with ERANGE is that of a value that does not fit.
pub fn socket_option(
    socket: BorrowedFd<'_>,
    option: libc::c_int,
    value: &mut [u8],
) -> (io::Result<()>, usize) {
    let mut length = value.len() as libc::socklen_t;
    // SAFETY: the length is that of the slice, and both outlive the call; the kernel writes no more
    // than that.
    let result = unsafe {
        let (socket, start) = (socket.as_raw_fd(), value.as_mut_ptr());
        libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            option,
            start.cast(),
            &raw mut length,
        )
    };
    let result = match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    (result, length as usize)
}

/// The effective user and group of who connected a Unix socket.
///
/// # Errors
/// Those of getpeereid(3).
#[cfg(not(target_os = "linux"))]
pub fn peer_ids(stream: &UnixStream) -> io::Result<(u32, u32)> {
    let (mut uid, mut gid) = (libc::uid_t::MAX, libc::gid_t::MAX);
    // SAFETY: the pointers are to locals that outlive the call.
    match unsafe { libc::getpeereid(stream.as_raw_fd(), &raw mut uid, &raw mut gid) } {
        0 => Ok((uid, gid)),
        _ => Err(io::Error::last_os_error()),
    }
}
