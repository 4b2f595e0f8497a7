//! Where a bridge listens, and whether what listens there is to be trusted.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use crate::failure::{Failure, usage};

/// The address of a bridge.
#[derive(Clone, Debug)]
pub enum Address {
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// `HOST:PORT`.
    Tcp(String),
}

impl Address {
    /// Reads a path or `tcp:HOST:PORT`.
    pub fn parse(value: OsString) -> Result<Self, Failure> {
        if value.is_empty() {
            return Err(usage!("the socket path is empty"));
        }
        if !value.as_bytes().starts_with(b"tcp:") {
            return Ok(Address::Unix(value.into()));
        }
        let text = value.to_string_lossy();
        let place = text.strip_prefix("tcp:").unwrap_or(&text);
        match place.rsplit_once(':') {
            Some((host, port))
                if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) =>
            {
                Ok(Address::Tcp(place.to_string()))
            }
            _ => Err(usage!(
                "'{text}' is not an address; use tcp:HOST:PORT with a port from 1 to 65535"
            )),
        }
    }

    /// Fails if a Unix socket belongs to a stranger: anyone may create one in /tmp where a bridge is
    /// expected, read the prompts and make up the answers.
    pub fn check_owner(&self, trusted: &[u32]) -> Result<(), Failure> {
        let Address::Unix(path) = self else {
            return Ok(());
        };
        // The link first, if it is one: its owner could redirect it after this check.
        let link = fs::symlink_metadata(path).map_err(|error| self.failure(&error))?;
        let socket = fs::metadata(path).map_err(|error| self.failure(&error))?;
        if !socket.file_type().is_socket() {
            let message = format!("cannot connect to {self}: it is not a socket");
            return Err(Failure::Connect(message));
        }
        let own = own_uid().map_err(|error| self.failure(&error))?;
        for uid in [link.uid(), socket.uid()] {
            if uid != 0 && uid != own && !trusted.contains(&uid) {
                return Err(Failure::Untrusted(format!(
                    "{self} is not trusted: it belongs to uid {uid}, which is neither yours nor root's; \
                     to trust it, use --trust-uid {uid}"
                )));
            }
        }
        Ok(())
    }

    /// Why the connection failed, and how to get one.
    pub fn failure(&self, error: &io::Error) -> Failure {
        let reason = match error.kind() {
            ErrorKind::NotFound => "no such file".to_string(),
            ErrorKind::ConnectionRefused => "no bridge listens there".to_string(),
            _ => error.to_string(),
        };
        let hint = match (self, error.kind()) {
            (Address::Tcp(_), _) => {
                "\nA bridge has no port of its own; on its host, forward one with: \
                 socat TCP-LISTEN:PORT,bind=localhost,fork UNIX-CONNECT:SOCKET"
                    .to_string()
            }
            (_, ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                format!("\nStart a bridge with: llama-cpp-bridge --socket {self} --model FILE.gguf")
            }
            _ => String::new(),
        };
        let message = format!("cannot connect to {self}: {reason}{hint}");
        match error.kind() {
            ErrorKind::PermissionDenied => Failure::Forbidden(message),
            _ => Failure::Connect(message),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Unix(path) => write!(out, "{}", path.display()),
            Address::Tcp(place) => write!(out, "tcp:{place}"),
        }
    }
}

/// The effective user id of this process: the owner of a socket that it creates.
pub fn own_uid() -> io::Result<u32> {
    let (socket, _) = UnixStream::pair()?;
    Ok(fs::File::from(OwnedFd::from(socket)).metadata()?.uid())
}
