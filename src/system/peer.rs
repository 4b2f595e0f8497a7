//! Who is at the other end of a Unix socket: what the kernel noted when the connection was made.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// The process that connected, as it was at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its process id in our namespace; `None` where the system does not tell, or it lies in
    /// another namespace.
    pub(crate) pid: Option<u32>,
    /// Its effective user id.
    pub(crate) uid: u32,
    /// Its effective group id.
    pub(crate) gid: u32,
}

/// Who connected this socket.
///
/// # Errors
/// Those of getsockopt(2), or of getpeereid(3) where there is no SO_PEERCRED.
pub(crate) fn of(stream: &UnixStream) -> io::Result<Peer> {
    #[cfg(target_os = "linux")]
    {
        let mut peer = libc::ucred {
            pid: 0,
            uid: libc::uid_t::MAX,
            gid: libc::gid_t::MAX,
        };
        let mut length = size_of::<libc::ucred>() as libc::socklen_t;
        // SAFETY: the pointers are to locals that outlive the call, and the length is that of the
        // structure.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut peer).cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Peer {
            pid: u32::try_from(peer.pid).ok().filter(|pid| *pid != 0),
            uid: peer.uid,
            gid: peer.gid,
        })
    }
    #[cfg(not(target_os = "linux"))]
    {
        let (mut uid, mut gid) = (libc::uid_t::MAX, libc::gid_t::MAX);
        // SAFETY: the pointers are to locals that outlive the call.
        let result = unsafe { libc::getpeereid(stream.as_raw_fd(), &raw mut uid, &raw mut gid) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
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
pub(crate) fn groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    #[cfg(target_os = "linux")]
    {
        let mut groups: Vec<libc::gid_t> = vec![0; 64];
        loop {
            let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
            // SAFETY: the length is that of the vector, which outlives the call; the kernel writes
            // no more than that, and says how much it was, or how much it would have been.
            let result = unsafe {
                libc::getsockopt(
                    stream.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_PEERGROUPS,
                    groups.as_mut_ptr().cast(),
                    &raw mut length,
                )
            };
            let count = length as usize / size_of::<libc::gid_t>();
            if result == 0 {
                groups.truncate(count);
                return Ok(groups);
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::ERANGE) if count > groups.len() => groups.resize(count, 0),
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
