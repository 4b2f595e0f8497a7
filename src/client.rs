//! One client: its requests as they come in, its replies as they go out.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::request::{Framed, Framer};
use crate::system::{self, PollFd};

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// Why a reply did not reach its client.
#[derive(Debug, PartialEq)]
pub(crate) enum Unsent {
    /// The client is gone, or has read nothing for too long.
    Lost,
    /// A signal asks the bridge to stop.
    Stop,
}

/// What came of reading.
#[derive(Debug, PartialEq)]
pub(crate) enum Input {
    /// Bytes, or the end, were taken in; [`Client::next`] knows more.
    Some,
    /// There is nothing to read just now.
    Nothing,
    /// The connection is broken.
    Broken,
}

/// A connected client.
pub(crate) struct Client {
    stream: UnixStream,
    framer: Framer,
    at_end: bool,
    /// When it last got an answer, or came.
    served: Instant,
}

impl Client {
    /// Takes a connection over.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub(crate) fn new(stream: UnixStream, max_request: usize) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            framer: Framer::new(max_request),
            at_end: false,
            served: Instant::now(),
        })
    }

    /// The descriptor to wait on.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// The next request of those read so far.
    pub(crate) fn next(&mut self) -> Option<Framed> {
        self.framer.next(self.at_end)
    }

    /// Whether no further request can come.
    pub(crate) fn at_end(&self) -> bool {
        self.at_end
    }

    /// How long ago it got an answer, or came. Bytes of a request that is not complete do not
    /// count, or one byte a minute would hold everybody else up for ever.
    pub(crate) fn idle(&self) -> Duration {
        self.served.elapsed()
    }

    /// Reads what is there, without waiting.
    pub(crate) fn read(&mut self) -> Input {
        let mut chunk = [0; CHUNK];
        match self.stream.read(&mut chunk) {
            Ok(0) => {
                self.at_end = true;
                Input::Some
            }
            Ok(count) => {
                self.framer.push(&chunk[..count]);
                Input::Some
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Input::Nothing,
                _ => Input::Broken,
            },
        }
    }

    /// Sends a reply, whole.
    ///
    /// # Errors
    /// A client that is gone or takes not one byte for the time of `patience`; a signal on `stop`.
    pub(crate) fn send(
        &self,
        reply: &str,
        stop: BorrowedFd<'_>,
        patience: Duration,
    ) -> Result<(), Unsent> {
        let mut rest = reply.as_bytes();
        let mut deadline = Instant::now() + patience;
        while !rest.is_empty() {
            match (&self.stream).write(rest) {
                Ok(count) => {
                    rest = &rest[count..];
                    deadline = Instant::now() + patience;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_for_room(stop, deadline)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(_) => return Err(Unsent::Lost),
            }
        }
        Ok(())
    }

    /// Notes that a request was answered.
    pub(crate) fn served(&mut self) {
        self.served = Instant::now();
    }

    /// Sends what fits without waiting: for a last word to a client while the bridge stops.
    pub(crate) fn send_at_once(&self, reply: &str) {
        let _ = (&self.stream).write(reply.as_bytes());
    }

    fn wait_for_room(&self, stop: BorrowedFd<'_>, deadline: Instant) -> Result<(), Unsent> {
        let wait = deadline.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return Err(Unsent::Lost);
        }
        let mut fds = [PollFd::readable(stop), PollFd::writable(self.fd())];
        system::poll(&mut fds, Some(wait)).map_err(|_| Unsent::Lost)?;
        if fds[0].ready() {
            return Err(Unsent::Stop);
        }
        Ok(())
    }
}
