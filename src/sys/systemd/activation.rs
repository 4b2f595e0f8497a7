//! A socket that was passed in: the protocol of sd_listen_fds(3), by which systemd hands over a
//! socket on which it listens itself until then.

use std::env;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::process;

use crate::sys;

/// The process that the sockets are for.
const PID_VARIABLE: &str = "LISTEN_PID";
/// How many there are.
const COUNT_VARIABLE: &str = "LISTEN_FDS";
/// All variables that describe them. The model process gets none of them.
pub const VARIABLES: [&str; 3] = [PID_VARIABLE, COUNT_VARIABLE, "LISTEN_FDNAMES"];

/// A listening socket that somebody else made, and whose file is theirs.
pub struct Passed {
    /// The socket, listening.
    pub listener: UnixListener,
    /// `None` for one with an abstract name.
    pub path: Option<PathBuf>,
    /// Its path, or `@` and its abstract name.
    pub name: String,
}

/// The socket that was passed to this process, if there is one. To be called once, before anything
/// is opened.
///
/// # Errors
/// More than one socket, and one that is not a listening Unix stream socket.
pub fn take() -> Result<Option<Passed>, String> {
    let pid = number(PID_VARIABLE)?;
    if pid != Some(process::id()) {
        return Ok(None);
    }
    match number(COUNT_VARIABLE)? {
        None | Some(0) => return Ok(None),
        Some(1) => (),
        Some(count) => {
            return Err(format!(
                "{COUNT_VARIABLE}: {count} sockets were passed in; a bridge serves one"
            ));
        }
    }
    let listener = checked().map_err(|what| format!("the socket passed in: {what}"))?;
    let address = listener
        .local_addr()
        .and_then(|address| listener.set_nonblocking(true).map(|()| address))
        .map_err(|error| format!("the socket passed in: {error}"))?;
    Ok(Some(Passed {
        path: address.as_pathname().map(PathBuf::from),
        name: name(&address),
        listener,
    }))
}

/// The value of a variable that holds a number.
fn number(variable: &str) -> Result<Option<u32>, String> {
    let Some(value) = env::var_os(variable) else {
        return Ok(None);
    };
    let number = value.to_str().and_then(|value| value.parse().ok());
    let wrong = || format!("{variable}: '{}' is not a number", value.to_string_lossy());
    number.map(Some).ok_or_else(wrong)
}

/// The socket, if it is one that can be served.
fn checked() -> Result<UnixListener, String> {
    let fd = sys::descriptors::take_passed().map_err(|error| match error.raw_os_error() {
        Some(libc::EBADF) => "descriptor 3 is not open".to_string(),
        _ => error.to_string(),
    })?;
    let kind =
        socket_number(fd.as_fd(), libc::SO_TYPE).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOTSOCK) => "descriptor 3 is not a socket".to_string(),
            _ => error.to_string(),
        })?;
    let listens = socket_number(fd.as_fd(), libc::SO_ACCEPTCONN).unwrap_or(0) != 0;
    let listener = UnixListener::from(fd);
    match listener.local_addr() {
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => Err(error.to_string()),
        Ok(_) if kind == libc::SOCK_STREAM && listens => Ok(listener),
        Ok(_) if kind == libc::SOCK_STREAM => Err(
            "it is a connection, not a listening socket; set Accept=no in the systemd.socket unit"
                .to_string(),
        ),
        _ => Err(
            "it is not a Unix stream socket; use ListenStream=/PATH in the systemd.socket unit"
                .to_string(),
        ),
    }
}

/// Its path, or `@` and its abstract name.
fn name(address: &SocketAddr) -> String {
    #[cfg(target_os = "linux")]
    {
        use std::os::linux::net::SocketAddrExt;
        if let Some(name) = address.as_abstract_name() {
            return format!("@{}", String::from_utf8_lossy(name));
        }
    }
    match address.as_pathname() {
        Some(path) => path.display().to_string(),
        None => "a socket without a name".to_string(),
    }
}

/// The value of an option of a socket that is a number.
fn socket_number(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut bytes = [0; size_of::<libc::c_int>()];
    let (result, _) = sys::socket::socket_option(socket, option, &mut bytes);
    result.map(|()| libc::c_int::from_ne_bytes(bytes))
}
