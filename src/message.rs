//! What the bridge and its model process say to each other: JSON, one message a line, over the
//! socket pair that joins them. Both ends are the same program, so this is no protocol of its own.

use miniserde::{Deserialize, Serialize};

use crate::failure::Code;
use crate::settings::{Load, Sampling};

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
