//! One client: its requests as they come in, its replies as they go out. Nothing here waits.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use llama_cpp_bridge::protocol::framing::{Framed, Framer};
use llama_cpp_bridge::sys::peer::{self, Peer};
use llama_cpp_bridge::sys::poll::PollFd;

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// Bytes of replies that may wait to be taken before no further one is queued. One reply
/// can be longer; it then waits alone.
const OUTPUT_LIMIT: usize = 256 * 1024;

/// Bytes that a client has to take while the idle time passes once, or it is too slow. A terminal
/// or a pipe takes that in a moment.
const SLOWEST: usize = 64 * 1024;

/// A connected client.
pub struct Client {
    stream: UnixStream,
    peer: Peer,
    framer: Framer,
    /// It sends no more.
    at_end: bool,
    /// It takes nothing more, and what it asked for is for nobody.
    gone: bool,
    output: Vec<u8>,
    /// Bytes of `output` that are written.
    written: usize,
    /// When it came, or took its last answer whole.
    served: Instant,
    /// Since when it has not taken [`SLOWEST`] bytes of what waits for it, and how many it has.
    slow: (Instant, usize),
}

impl Client {
    /// Takes a connection over.
    ///
    /// # Errors
    /// Those of fcntl(2), and of asking who it is.
    pub fn new(stream: UnixStream, max_request: usize, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let peer = peer::of(&stream)?;
        Ok(Self {
            stream,
            peer,
            framer: Framer::new(max_request),
            at_end: false,
            gone: false,
            output: Vec::new(),
            written: 0,
            served: now,
            slow: (now, 0),
        })
    }

    /// Who it is.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Its further groups; none where they cannot be learnt.
    pub fn groups(&self) -> Vec<u32> {
        peer::groups(&self.stream).unwrap_or_default()
    }

    /// What to wait for: its going away always, input where it is wanted, room for what waits.
    pub fn poll(&self, wants_input: bool) -> PollFd<'_> {
        let fd: BorrowedFd<'_> = self.stream.as_fd();
        let input = wants_input && !self.at_end;
        PollFd::hangup(fd)
            .or_readable(input)
            .or_writable(self.has_output())
    }

    /// The next request of those read so far.
    pub fn next(&mut self) -> Option<Framed> {
        self.framer.next(self.at_end)
    }

    /// Whether no further bytes can come.
    pub fn at_end(&self) -> bool {
        self.at_end
    }

    /// Whether nobody is there to take a reply.
    pub fn gone(&self) -> bool {
        self.gone
    }

    /// Notes that the connection is broken, or closed in both directions. What is left unsent is
    /// given up.
    pub fn hung_up(&mut self) {
        self.gone = true;
        self.output = Vec::new();
        self.written = 0;
    }

    /// Reads some of what is there. Tells whether there was something, be it the end.
    pub fn read(&mut self) -> bool {
        if self.at_end {
            return false;
        }
        let mut chunk = [0; CHUNK];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.at_end = true,
            Ok(count) => self.framer.push(&chunk[..count]),
            Err(error) => {
                match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => (),
                    _ => self.hung_up(),
                }
                return false;
            }
        }
        true
    }

    /// Lets it know that nothing more comes.
    pub fn finish(&self) {
        // Of one that is gone already there is nothing to do.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Whether a further reply may be queued.
    pub fn has_room(&self) -> bool {
        self.output.len() - self.written < OUTPUT_LIMIT
    }

    /// Whether replies wait to be taken.
    pub fn has_output(&self) -> bool {
        self.written < self.output.len()
    }

    /// Queues a reply, or a piece of a stream.
    pub fn push(&mut self, line: &str, now: Instant) {
        if self.gone {
            return;
        }
        if !self.has_output() {
            self.slow = (now, 0);
        }
        self.output.extend_from_slice(line.as_bytes());
    }

    /// Writes what there is room for. Returns whether a further reply may be queued after the rest
    /// now and could not before: once all is written, nothing else would wake the bridge for it.
    pub fn flush(&mut self, now: Instant) -> bool {
        let full = !self.has_room();
        while self.has_output() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(count) => self.took(count, now),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => break,
                    io::ErrorKind::Interrupted => (),
                    _ => self.hung_up(),
                },
            }
        }
        full && self.has_room()
    }

    fn took(&mut self, count: usize, now: Instant) {
        self.written += count;
        self.slow.1 += count;
        if self.slow.1 >= SLOWEST {
            self.slow = (now, 0);
        }
        if !self.has_output() {
            // What a long reply took is given back: most are short.
            self.output = Vec::new();
            self.written = 0;
            self.served = now;
        } else if self.written >= OUTPUT_LIMIT.max(self.output.len() / 2) {
            // The larger part, or most of a very long reply would be moved again and again.
            self.output.drain(..self.written);
            self.written = 0;
        }
    }

    /// When its time is over if nothing happens: `idle` after its last answer, or so long after
    /// it began to take too little of the answers that wait. Bytes of a request that is not
    /// complete do not count, or one byte a minute would hold everybody else up for ever.
    pub fn patience_ends(&self, idle: Duration) -> Instant {
        let since = if self.has_output() {
            self.slow.0
        } else {
            self.served
        };
        since + idle
    }
}
