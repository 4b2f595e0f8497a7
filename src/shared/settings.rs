//! What can be set: how a model is loaded, and how a token is chosen. The command line fills it in,
//! a request may change parts of it, the model process acts on it.

use miniserde::{Deserialize, Serialize};

/// Tokens of the context unless told otherwise.
pub(crate) const DEFAULT_CONTEXT: u32 = 4096;

/// Most requests that can be worked on together: a step computes a token for each, and each needs
/// its row of logits.
pub(crate) const MAX_PARALLEL: u32 = 64;

/// Most tokens that can be guessed at a time: those behind the first that is wrong are in vain.
pub(crate) const MAX_GUESS: u32 = 64;

/// Which model to load, and how. The values are those of the options of the same names.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(crate) struct Load {
    /// As it was named.
    pub(crate) path: String,
    /// Where the model process finds it.
    pub(crate) file: String,
    /// Bytes of it and its further parts.
    pub(crate) size: u64,
    /// Whether it is loaded even where memory is short.
    pub(crate) force: bool,
    /// Tokens; 0 is the model's own, `None` the default.
    pub(crate) ctx_size: Option<u32>,
    pub(crate) batch_size: u32,
    pub(crate) ubatch_size: u32,
    /// `None` follows the load of the machine, up to all [`processors`].
    pub(crate) threads: Option<u32>,
    /// The same for steps of more than one token.
    pub(crate) threads_batch: Option<u32>,
    /// Requests that are worked on together at the most.
    pub(crate) parallel: u32,
    /// Tokens guessed at a time at the most; 0 is none.
    pub(crate) spec_ngram: u32,
    /// Layers; `None` is all.
    pub(crate) gpu_layers: Option<u32>,
    pub(crate) mmap: bool,
    pub(crate) mlock: bool,
    pub(crate) flash_attn: FlashAttention,
    pub(crate) cache_type_k: Cache,
    pub(crate) cache_type_v: Cache,
    /// Whether layers with a sliding window keep what has slid out of it.
    pub(crate) swa_full: bool,
    /// The chat template to use instead of the model's own.
    pub(crate) chat_template: Option<String>,
    /// The directory of saved states, by its absolute path; `None` keeps none.
    pub(crate) state_dir: Option<String>,
    /// Bytes that the states in it may take together.
    pub(crate) state_limit: u64,
    /// Whether the model process gives up what it does not need.
    pub(crate) sandbox: bool,
    /// Whether all of llama.cpp's log is wanted, not its errors alone.
    pub(crate) verbose: bool,
}

/// How a token is chosen. The defaults are llama.cpp's.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct Sampling {
    /// 0 is greedy.
    pub(crate) temperature: f32,
    /// 0 is off.
    pub(crate) top_k: i32,
    /// 1 is off.
    pub(crate) top_p: f32,
    /// 0 is off.
    pub(crate) min_p: f32,
    /// 1 is off.
    pub(crate) repeat_penalty: f32,
    /// Tokens; 0 is off, -1 the whole context.
    pub(crate) repeat_last_n: i32,
    /// 0 is off.
    pub(crate) presence_penalty: f32,
    /// 0 is off.
    pub(crate) frequency_penalty: f32,
}

/// When flash attention is used.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub(crate) enum FlashAttention {
    #[serde(rename = "on")]
    On,
    #[serde(rename = "off")]
    Off,
    #[serde(rename = "auto")]
    Auto,
}

/// The type that the K or V cache is stored in.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cache {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q4_0,
    Q4_1,
    Iq4Nl,
    Q5_0,
    Q5_1,
}

/// Processors that this process may use.
pub(crate) fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u32)
}
