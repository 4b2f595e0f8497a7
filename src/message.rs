//! What the bridge and its model process say to each other: JSON, one message a line, over the
//! socket pair that joins them. Both ends are the same program, so this is no protocol of its own.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use miniserde::{Deserialize, Serialize, json};

use crate::options::{Cache, FlashAttention, Sampling};
use crate::reply::Code;

/// From the bridge to the model process. Exactly one of the parts is there.
#[derive(Serialize, Deserialize, Default)]
pub(crate) struct ToModel {
    /// Which request this is about.
    pub(crate) id: u64,
    /// The first message: which model to load, and how.
    pub(crate) load: Option<Load>,
    /// Generate text.
    pub(crate) generate: Option<Generate>,
    /// Give up request `id`.
    pub(crate) cancel: bool,
}

/// Which model to load, and how. The values are those of the options of the same names.
#[derive(Serialize, Deserialize, Clone)]
pub(crate) struct Load {
    pub(crate) path: String,
    /// Tokens; 0 is the model's own.
    pub(crate) ctx_size: u32,
    pub(crate) batch_size: u32,
    pub(crate) ubatch_size: u32,
    pub(crate) threads: u32,
    pub(crate) threads_batch: u32,
    /// Layers; `None` is all.
    pub(crate) gpu_layers: Option<u32>,
    pub(crate) mmap: bool,
    pub(crate) mlock: bool,
    pub(crate) flash_attn: FlashAttention,
    pub(crate) cache_type_k: Cache,
    pub(crate) cache_type_v: Cache,
    /// Whether all of llama.cpp's log is wanted, not its errors alone.
    pub(crate) verbose: bool,
}

/// A text to generate.
#[derive(Serialize, Deserialize, Clone)]
pub(crate) struct Generate {
    /// The prompt as it is: special tokens in it count as such.
    pub(crate) prompt: String,
    /// Tokens at the most; -1 is until the context is full.
    pub(crate) max_tokens: i32,
    pub(crate) sampling: Sampling,
    /// The seed that was asked for or drawn.
    pub(crate) seed: u32,
}

/// From the model process to the bridge. Exactly one of the parts is there.
#[derive(Serialize, Deserialize, Default)]
pub(crate) struct FromModel {
    /// Which request this is about.
    pub(crate) id: u64,
    /// The model is loaded and has evaluated one token.
    pub(crate) ready: Option<Ready>,
    /// A request is done.
    pub(crate) done: Option<Done>,
    /// A request, or the load, failed. The process goes on, but for the load.
    pub(crate) failed: Option<Failed>,
    /// Something that whoever runs the bridge should read.
    pub(crate) notice: Option<String>,
}

/// The model is loaded.
#[derive(Serialize, Deserialize)]
pub(crate) struct Ready {
    /// Tokens that fit the context.
    pub(crate) context_size: u32,
}

/// A generation that came to its end.
#[derive(Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) text: String,
}

/// A request that failed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Failed {
    pub(crate) code: Code,
    pub(crate) message: String,
}

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
    /// Takes over one end. Reading never blocks; writing does.
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            received: Vec::new(),
            searched: 0,
        }
    }

    /// The descriptor to wait on for the next message.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Sends a message, whole.
    ///
    /// # Errors
    /// Those of write(2); the other process is gone.
    pub(crate) fn send<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        let mut line = json::to_string(message);
        line.push('\n');
        self.stream.set_nonblocking(false)?;
        self.stream.write_all(line.as_bytes())
    }

    /// The next message, if it has come.
    ///
    /// # Errors
    /// Those of read(2), and data that is no message.
    pub(crate) fn receive<T: Deserialize>(&mut self) -> io::Result<Received<T>> {
        self.stream.set_nonblocking(true)?;
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
        let text = std::str::from_utf8(&line).map_err(|error| io::Error::other(error))?;
        json::from_str(text).map(Some).map_err(invalid)
    }
}
