//! Who is at the other end of a Unix socket: what the kernel noted when the connection was made.

use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use crate::sys;

/// The process that connected, as it was at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process id in our namespace; `None` where the system does not report it, or it is in
    /// another namespace.
    pub pid: Option<u32>,
    /// Its effective user id.
    pub uid: u32,
    /// Its effective group id.
    pub gid: u32,
}

/// Who connected this socket.
///
/// # Errors
/// Those of getsockopt(2), or of getpeereid(3) where there is no SO_PEERCRED.
pub fn of(stream: &UnixStream) -> io::Result<Peer> {
    #[cfg(target_os = "linux")]
    {
        // struct ucred: pid_t, uid_t and gid_t, of four bytes each.
        let mut bytes = [0; 12];
        let (result, _) = sys::socket::socket_option(stream.as_fd(), libc::SO_PEERCRED, &mut bytes);
        result?;
        let [pid, uid, gid] = numbers(&bytes)[..] else {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        };
        Ok(Peer {
            pid: (pid != 0).then_some(pid),
            uid,
            gid,
        })
    }
    #[cfg(not(target_os = "linux"))]
    {
        let (uid, gid) = sys::socket::peer_ids(stream)?;
        Ok(Peer {
            pid: None,
            uid,
            gid,
        })
    }
}

/// The further groups of the process that connected this socket; none where the system does not
/// tell them.
///
/// # Errors
/// Those of getsockopt(2), but for a kernel that does not know the question (Linux before 4.13).
pub fn groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    #[cfg(target_os = "linux")]
    {
        let mut bytes = vec![0; 64 * size_of::<libc::gid_t>()];
        loop {
            let (result, length) =
                sys::socket::socket_option(stream.as_fd(), libc::SO_PEERGROUPS, &mut bytes);
            let Err(error) = result else {
                return Ok(numbers(&bytes[..length]));
            };
            match error.raw_os_error() {
                Some(libc::ERANGE) if length > bytes.len() => bytes.resize(length, 0),
                Some(libc::ENOPROTOOPT) => return Ok(Vec::new()),
                _ => return Err(error),
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = stream;
        Ok(Vec::new())
    }
}

/// The numbers of four bytes that the kernel wrote.
#[cfg(target_os = "linux")]
fn numbers(bytes: &[u8]) -> Vec<u32> {
    let numbers = bytes
        .chunks_exact(4)
        .filter_map(|four| four.try_into().ok());
    numbers.map(u32::from_ne_bytes).collect()
}
