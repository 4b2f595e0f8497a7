//! One end of the socket pair that joins the bridge and its model process: messages as lines. Both
//! ends are of the same build, so this is not a protocol for others.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use crate::shared::wire::Message;
use crate::sys::log::printable;
use crate::sys::poll::{PollFd, poll};

/// One end of the socket pair.
pub struct Link {
    stream: UnixStream,
    /// What is still to be written.
    outgoing: Vec<u8>,
    /// Bytes of `outgoing` that are written.
    written: usize,
    received: Vec<u8>,
    /// Bytes of `received` that are known to hold no LF.
    searched: usize,
    /// Longest message that is taken, in bytes.
    limit: usize,
    /// Bytes that may still be read until more are [allowed](Self::allow).
    allowed: usize,
}

/// What there is to receive.
pub enum Received<M> {
    /// A message.
    Message(M),
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
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            outgoing: Vec::new(),
            written: 0,
            received: Vec::new(),
            searched: 0,
            limit: usize::MAX,
            allowed: usize::MAX,
        })
    }

    /// Limits messages to this many bytes from now on; there is no limit until this is called.
    pub fn set_limit(&mut self, bytes: usize) {
        self.limit = bytes;
    }

    /// Allows this many bytes to be read from now on, some of them in a last chunk; after them there is
    /// [nothing](Received::Nothing) to receive. There is no such limit until this is called.
    pub fn allow(&mut self, bytes: usize) {
        self.allowed = bytes;
    }

    /// The descriptor to wait on, for the next message or for room to write.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Queues a message after those that are still to be written.
    pub fn queue(&mut self, message: impl Message) {
        // What is written goes even if there is always something left; not before it is the larger
        // part, so that no byte is moved more than once or twice.
        if self.written > self.outgoing.len() / 2 {
            self.outgoing.drain(..self.written);
            self.written = 0;
        }
        self.outgoing.extend_from_slice(message.write().as_bytes());
        self.outgoing.push(b'\n');
    }

    /// Whether something is still to be written.
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Writes what there is room for.
    ///
    /// # Errors
    /// Those of write(2); the other process is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.written < self.outgoing.len() {
            match self.stream.write(&self.outgoing[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    io::ErrorKind::Interrupted => (),
                    _ => return Err(error),
                },
            }
        }
        // What a long message took is given back.
        self.outgoing = Vec::new();
        self.written = 0;
        Ok(())
    }

    /// Sends a message, whole, however long the other process takes to read it.
    ///
    /// # Errors
    /// Those of write(2) and poll(2); the other process is gone.
    pub fn send(&mut self, message: impl Message) -> io::Result<()> {
        self.queue(message);
        loop {
            self.flush()?;
            if !self.has_outgoing() {
                return Ok(());
            }
            poll(&mut [PollFd::writable(self.fd())], None)?;
        }
    }

    /// The next message, if it has come.
    ///
    /// # Errors
    /// Those of read(2), and data that is not a message, or longer than the limit.
    pub fn receive<M: Message>(&mut self) -> io::Result<Received<M>> {
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(message) = self.take()? {
                return Ok(Received::Message(message));
            }
            if self.allowed == 0 {
                return Ok(Received::Nothing);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(Received::End),
                Ok(count) => {
                    self.received.extend_from_slice(&chunk[..count]);
                    self.allowed = self.allowed.saturating_sub(count);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
                    io::ErrorKind::Interrupted => (),
                    io::ErrorKind::ConnectionReset => return Ok(Received::End),
                    _ => return Err(error),
                },
            }
        }
    }

    fn take<M: Message>(&mut self) -> io::Result<Option<M>> {
        let newline = self.received[self.searched..]
            .iter()
            .position(|&b| b == b'\n');
        let end = newline.map_or(self.received.len(), |at| self.searched + at);
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        if end > self.limit {
            let what = format!("a message of more than {} bytes", self.limit);
            return Err(invalid(what));
        }
        self.searched = end;
        if newline.is_none() {
            return Ok(None);
        }
        let line = &self.received[..end];
        let message = std::str::from_utf8(line).ok().and_then(M::read);
        let message = message.ok_or_else(|| invalid(format!("not a message: '{}'", start(line))));
        self.received.drain(..=end);
        self.searched = 0;
        if self.received.is_empty() {
            self.received = Vec::new();
        }
        message.map(Some)
    }
}

/// The beginning of a line, to be shown.
fn start(line: &[u8]) -> String {
    /// Bytes: the kind of a message, the number of its request, and some of its content.
    const SHOWN: usize = 40;
    let text = String::from_utf8_lossy(&line[..line.len().min(SHOWN)]);
    let more = if line.len() > SHOWN { "..." } else { "" };
    format!("{}{more}", printable(&text))
}

#[cfg(test)]
mod tests;
