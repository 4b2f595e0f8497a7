//! The messages between the bridge and its model process; wire.rs writes and reads them.

use std::time::Duration;

use miniserde::{Deserialize, Serialize};

use crate::shared::build::Build;
use crate::shared::failure::Failure;
use crate::shared::settings::{ModelParams, Sampling};

/// From the bridge to the model process.
#[derive(Debug)]
pub enum ToModel {
    /// The first message: which build the bridge is of.
    Hello(Build),
    /// The second message: which model to load, and how.
    Load(Box<ModelParams>),
    /// Work on a request. Its number is never used again.
    Work(u64, Work),
    /// Give up the request of this number. Its answer is then an error, unless it is already
    /// on its way.
    Cancel(u64),
}

/// What the model can be asked for.
#[derive(Debug)]
pub enum Work {
    /// Generate text.
    Generate(Box<Generate>),
    /// Compute the embedding of this text.
    Embed(String),
    /// Turn this text into tokens.
    Tokenize(String),
    /// Turn these tokens into text.
    Detokenize(Vec<i32>),
    /// Store the text that was evaluated last under this name.
    Save(String),
    /// Bring back what is stored under this name.
    Restore(String),
}

impl Work {
    /// Whether pieces are wanted as they come.
    pub fn streams(&self) -> bool {
        matches!(self, Self::Generate(request) if request.stream)
    }
}

/// From the model process to the bridge.
#[derive(Debug)]
pub enum FromModel {
    /// The first message: which build the model program is of.
    Hello(Build),
    /// The model is loaded and has evaluated one token.
    Ready(Box<Ready>),
    /// The model could not be loaded; the process ends.
    Refused(String),
    /// Something that whoever runs the bridge should read.
    Notice(String),
    /// The process is at work; what it does now is expected to take this many milliseconds, in
    /// which it reads nothing. Sent before every step that may take longer than
    /// [`LONG_STEP`], and at least once every [`BEAT`] while there is work.
    Busy(u64),
    /// The next part of the answer to a request: of one that is too long for a message, and of a text
    /// that streams.
    Part(u64, Part),
    /// The answer to a request; nothing follows it. An error does not end the process.
    Answer(u64, Result<Answer, Failure>),
}

/// A part of an answer, which is not empty; what is left comes with the answer.
#[derive(Debug)]
pub enum Part {
    /// A piece of a text, of whole characters.
    Text(String),
    /// Tokens of a text.
    Tokens(Vec<i32>),
    /// Numbers of an embedding.
    Values(Vec<f64>),
}

/// What the model process gives back.
#[derive(Debug)]
pub enum Answer {
    /// A generated text.
    Generated(Box<Done>),
    /// The embedding of a text.
    Embedding(Embedding),
    /// The tokens of a text.
    Tokens(Vec<i32>),
    /// The text of tokens.
    Text(String),
    /// A state was stored, or brought back.
    State(State),
}

/// A step that is expected to take longer than this is announced.
pub const LONG_STEP: Duration = Duration::from_millis(100);

/// How often a model process at work gives a sign of life.
pub const BEAT: Duration = Duration::from_secs(1);

/// A text to generate: after a prompt, or as the next turn of a conversation.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Generate {
    /// The prompt as it is: special tokens in it count as such.
    pub prompt: Option<String>,
    /// The conversation so far, for the model's chat template.
    pub messages: Option<Vec<Turn>>,
    /// Most tokens; -1 is until the context is full.
    pub max_tokens: i32,
    /// How its tokens are chosen.
    pub sampling: Sampling,
    /// The seed that was asked for or drawn.
    pub seed: u32,
    /// Texts that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// What the answer must follow, in GBNF.
    pub grammar: Option<String>,
    /// What the answer must follow, in GBNF that was made of a JSON schema.
    pub json_schema: Option<String>,
    /// Whether pieces are wanted as they come.
    pub stream: bool,
    /// Whether the tokens that end an answer are never chosen.
    pub ignore_eos: bool,
    /// Whether what the last prompt has in common with this one need not be evaluated again.
    pub cache_prompt: bool,
}

/// One turn of a conversation.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Turn {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// The model is loaded; what there is to know about it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Ready {
    /// Its name, by its own metadata.
    pub description: String,
    /// `llama`, for instance.
    pub architecture: String,
    /// Weights, counted one by one.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub size_bytes: u64,
    /// Tokens that fit the context.
    pub context_size: u32,
    /// Tokens that the model was trained with.
    pub training_context_size: u32,
    /// Numbers in an embedding.
    pub embedding_size: u32,
    /// Tokens in the vocabulary.
    pub vocabulary_size: u32,
    /// Whether there is a chat template.
    pub chat_template: bool,
    /// What of the sandbox could not be entered, though the kernel has it, a short text for each.
    pub sandbox_lacks: Vec<String>,
}

/// A generation that came to its end.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Done {
    /// The text, without the stop string that ended it.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt or text, BOS included.
    pub prompt_tokens: u32,
    /// Those of the prompt that were not evaluated again.
    pub cached_tokens: u32,
    /// Tokens that were generated, the one that ended the text excluded.
    pub completion_tokens: u32,
    /// Milliseconds until the whole prompt was evaluated.
    pub prompt_ms: f64,
    /// Milliseconds from then on.
    pub completion_ms: f64,
    /// The seed that was used.
    pub seed: u32,
}

/// Why a generation ended.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub enum FinishReason {
    /// By itself, at a stop string, or at the end of the grammar.
    #[serde(rename = "stop")]
    Stop,
    /// At its limit of tokens, or that of its text.
    #[serde(rename = "length")]
    Length,
    /// At the end of the context.
    #[serde(rename = "context")]
    Context,
}

/// A state that was stored, or brought back.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub struct State {
    /// Tokens of the text that was evaluated.
    pub tokens: u32,
    /// Bytes of its file.
    pub bytes: u64,
}

/// The embedding of a text.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Embedding {
    /// Of length 1.
    pub values: Vec<f64>,
    /// Tokens of the prompt or text, BOS included.
    pub prompt_tokens: u32,
}
