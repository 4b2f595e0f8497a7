//! What the bridge and its model process say to each other: JSON, one message a line, over the
//! socket pair that joins them. Both ends are the same program, so this is no protocol of its own.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use miniserde::{Deserialize, Serialize, json};

use crate::options::{Cache, FlashAttention, Sampling};
use crate::reply::Code;
use crate::system::{self, PollFd};

/// From the bridge to the model process. Exactly one of the parts is there.
#[derive(Serialize, Deserialize, Default)]
pub(crate) struct ToModel {
    /// Which request this is about.
    pub(crate) id: u64,
    /// The first message: which model to load, and how.
    pub(crate) load: Option<Load>,
    /// Generate text.
    pub(crate) generate: Option<Generate>,
    /// Compute the embedding of this text.
    pub(crate) embed: Option<String>,
    /// Turn this text into tokens.
    pub(crate) tokenize: Option<String>,
    /// Turn these tokens into text.
    pub(crate) detokenize: Option<Vec<i32>>,
    /// Give up request `id`.
    pub(crate) cancel: bool,
}

/// Which model to load, and how. The values are those of the options of the same names.
#[derive(Serialize, Deserialize, Clone)]
pub(crate) struct Load {
    pub(crate) path: String,
    /// Tokens; 0 is the model's own, `None` the default.
    pub(crate) ctx_size: Option<u32>,
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
    /// The chat template to use instead of the model's own.
    pub(crate) chat_template: Option<String>,
    /// Whether all of llama.cpp's log is wanted, not its errors alone.
    pub(crate) verbose: bool,
}

/// A text to generate: after a prompt, or as the next turn of a conversation.
#[derive(Serialize, Deserialize, Clone)]
pub(crate) struct Generate {
    /// The prompt as it is: special tokens in it count as such.
    pub(crate) prompt: Option<String>,
    /// The conversation so far, for the model's chat template.
    pub(crate) messages: Option<Vec<Turn>>,
    /// Tokens at the most; -1 is until the context is full.
    pub(crate) max_tokens: i32,
    pub(crate) sampling: Sampling,
    /// The seed that was asked for or drawn.
    pub(crate) seed: u32,
    /// Texts that end the answer and are not part of it.
    pub(crate) stop: Vec<String>,
    /// What the answer must follow, in GBNF.
    pub(crate) grammar: Option<String>,
    /// What the answer must follow, as a JSON schema.
    pub(crate) json_schema: Option<String>,
    /// Whether pieces are wanted as they come.
    pub(crate) stream: bool,
    /// Whether the tokens that end an answer are never chosen.
    pub(crate) ignore_eos: bool,
    /// Whether what the last prompt has in common with this one need not be evaluated again.
    pub(crate) cache_prompt: bool,
}

/// One turn of a conversation.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(crate) struct Turn {
    /// `system`, `user` or `assistant`.
    pub(crate) role: String,
    pub(crate) content: String,
}

/// From the model process to the bridge. Exactly one of the parts is there.
#[derive(Serialize, Deserialize, Default)]
pub(crate) struct FromModel {
    /// Which request this is about.
    pub(crate) id: u64,
    /// The model is loaded and has evaluated one token.
    pub(crate) ready: Option<Ready>,
    /// A piece of a text that is still being generated.
    pub(crate) piece: Option<String>,
    /// A text is complete.
    pub(crate) done: Option<Done>,
    /// An embedding.
    pub(crate) embedding: Option<Embedding>,
    /// The tokens of a text.
    pub(crate) tokens: Option<Vec<i32>>,
    /// The text of tokens.
    pub(crate) text: Option<String>,
    /// A request, or the load, failed. The process goes on, but for the load.
    pub(crate) failed: Option<Failed>,
    /// Something that whoever runs the bridge should read.
    pub(crate) notice: Option<String>,
}

/// The model is loaded; what there is to know about it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct Ready {
    /// Its name, by its own metadata.
    pub(crate) description: String,
    /// `llama`, for instance.
    pub(crate) architecture: String,
    pub(crate) parameters: u64,
    /// Bytes of all tensors.
    pub(crate) size_bytes: u64,
    /// Tokens that fit the context.
    pub(crate) context_size: u32,
    /// Tokens that the model was trained with.
    pub(crate) training_context_size: u32,
    /// Numbers in an embedding.
    pub(crate) embedding_size: u32,
    /// Tokens in the vocabulary.
    pub(crate) vocabulary_size: u32,
    /// Whether there is a chat template.
    pub(crate) chat_template: bool,
}

/// A generation that came to its end.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct Done {
    pub(crate) text: String,
    pub(crate) finish_reason: FinishReason,
    pub(crate) prompt_tokens: u32,
    /// Those of the prompt that were not evaluated again.
    pub(crate) cached_tokens: u32,
    pub(crate) completion_tokens: u32,
    /// Milliseconds until the whole prompt was evaluated.
    pub(crate) prompt_ms: f64,
    /// Milliseconds from then on.
    pub(crate) completion_ms: f64,
    pub(crate) seed: u32,
}

/// Why a generation ended.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub(crate) enum FinishReason {
    /// By itself, at a stop string, or at the end of the grammar.
    #[serde(rename = "stop")]
    Stop,
    /// At its limit of tokens.
    #[serde(rename = "length")]
    Length,
    /// At the end of the context.
    #[serde(rename = "context")]
    Context,
}

/// The embedding of a text.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct Embedding {
    /// Of length 1.
    pub(crate) values: Vec<f64>,
    pub(crate) prompt_tokens: u32,
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
