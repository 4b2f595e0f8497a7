//! One end of the socket pair that joins the bridge and its model process: messages as lines of
//! JSON. Both ends are the same program, so this is no protocol of its own.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use miniserde::{Deserialize, Serialize, json};

use crate::system::{self, PollFd};

/// One end of the socket pair.
pub(crate) struct Link {
    stream: UnixStream,
    received: Vec<u8>,
    /// Bytes of `received` that are known to hold no LF.
    searched: usize,
}

/// What there is to receive.
pub(crate) enum Received<T> {
    /// A message.
    Message(T),
    /// Nothing yet.
    Nothing,
    /// The other process is gone.
    End,
}

impl Link {
    /// Takes over one end. Neither reading nor writing blocks from now on.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            received: Vec::new(),
            searched: 0,
        })
    }

    /// The descriptor to wait on, for the next message or for room to write.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// A message as it is written.
    pub(crate) fn line<T: Serialize>(message: &T) -> String {
        let mut line = json::to_string(message);
        line.push('\n');
        line
    }

    /// Writes what there is room for, and says how much that was.
    ///
    /// # Errors
    /// Those of write(2); the other process is gone.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.write(bytes) {
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            },
            written => written,
        }
    }

    /// Sends a message, whole, however long the other process takes to read it.
    ///
    /// # Errors
    /// Those of write(2) and poll(2); the other process is gone.
    pub(crate) fn send<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        let line = Self::line(message);
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            rest = &rest[self.write(rest)?..];
            if !rest.is_empty() {
                system::poll(&mut [PollFd::writable(self.fd())], None)?;
            }
        }
        Ok(())
    }

    /// The next message, if it has come.
    ///
    /// # Errors
    /// Those of read(2), and data that is no message.
    pub(crate) fn receive<T: Deserialize>(&mut self) -> io::Result<Received<T>> {
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(message) = self.take()? {
                return Ok(Received::Message(message));
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(Received::End),
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
                    io::ErrorKind::Interrupted => (),
                    io::ErrorKind::ConnectionReset => return Ok(Received::End),
                    _ => return Err(error),
                },
            }
        }
    }

    fn take<T: Deserialize>(&mut self) -> io::Result<Option<T>> {
        let newline = self.received[self.searched..]
            .iter()
            .position(|&b| b == b'\n');
        let Some(at) = newline else {
            self.searched = self.received.len();
            return Ok(None);
        };
        let line: Vec<u8> = self.received.drain(..=self.searched + at).collect();
        self.searched = 0;
        if self.received.is_empty() {
            self.received = Vec::new();
        }
        let invalid = |_| io::Error::new(io::ErrorKind::InvalidData, "not a message");
        let text = std::str::from_utf8(&line).map_err(io::Error::other)?;
        json::from_str(text).map(Some).map_err(invalid)
    }
}
