//! What can be set: how a model is loaded, and how a token is chosen. The command line fills it in,
//! a request may change parts of it, the model process acts on it.

use std::path::{Path, PathBuf};

use miniserde::{Deserialize, Serialize};

/// Tokens of the context by default.
pub const DEFAULT_CONTEXT: u32 = 4096;

/// Most requests that can be worked on together: a step computes a token for each, and each needs
/// its row of logits.
pub const MAX_PARALLEL: u32 = 64;

/// Bytes that saved states may take by default: eight full contexts of the default size
/// of a model of 8 billion parameters, whose state takes 128 KiB a token.
const DEFAULT_STATE_LIMIT: u64 = 4 << 30;

/// Most tokens that can be drafted at a time: those after the first that is wrong are wasted.
pub const MAX_GUESS: u32 = 64;

/// The environment variables by which a user says how long OpenMP's threads look for work before
/// they sleep; with either, the programs leave that alone.
pub const SPIN_VARIABLES: [&str; 2] = ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"];

/// Which model to load, and how. The values are those of the options of the same names.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct ModelParams {
    /// As it was named.
    pub path: String,
    /// Where the model process finds it.
    pub file: String,
    /// Bytes of it and its further parts.
    pub size: u64,
    /// Whether it is loaded even where memory is short.
    pub force: bool,
    /// Tokens; 0 is the model's own, `None` the default.
    pub ctx_size: Option<u32>,
    /// Tokens evaluated at a time at most.
    pub batch_size: u32,
    /// Tokens computed at a time at most.
    pub ubatch_size: u32,
    /// `None` follows the load of the machine, up to all [`processors`].
    pub threads: Option<u32>,
    /// The same for steps of more than one token.
    pub threads_batch: Option<u32>,
    /// Most requests that are worked on together.
    pub parallel: u32,
    /// Most tokens drafted at a time; 0 is none.
    pub spec_ngram: u32,
    /// Layers; `None` is all.
    pub gpu_layers: Option<u32>,
    /// Whether the file is mapped, not read.
    pub mmap: bool,
    /// Whether the model is kept from being swapped out.
    pub mlock: bool,
    /// When flash attention is used.
    pub flash_attn: FlashAttention,
    /// The type of the K cache.
    pub cache_type_k: KvType,
    /// The type of the V cache.
    pub cache_type_v: KvType,
    /// Whether layers with a sliding window keep what has slid out of it.
    pub swa_full: bool,
    /// The chat template to use instead of the model's own.
    pub chat_template: Option<String>,
    /// The directory of saved states, by its absolute path; `None` keeps none.
    pub state_dir: Option<String>,
    /// Bytes that the states in it, those of all models, may take together.
    pub state_limit: u64,
    /// Where the saved states of this very model are; `None` where there is no place for them.
    pub states: Option<StateFiles>,
    /// Whether the model process gives up what it does not need.
    pub sandbox: bool,
    /// Whether all of llama.cpp's log is wanted, not its errors alone.
    pub verbose: bool,
}

impl Default for ModelParams {
    /// The defaults of the options, for no model.
    fn default() -> Self {
        Self {
            path: String::new(),
            file: String::new(),
            size: 0,
            force: false,
            ctx_size: None,
            batch_size: 2048,
            ubatch_size: 512,
            threads: None,
            threads_batch: None,
            parallel: 8,
            spec_ngram: 0,
            gpu_layers: None,
            mmap: true,
            mlock: false,
            flash_attn: FlashAttention::Auto,
            cache_type_k: KvType::F16,
            cache_type_v: KvType::F16,
            swa_full: false,
            chat_template: None,
            state_dir: None,
            state_limit: DEFAULT_STATE_LIMIT,
            states: None,
            sandbox: true,
            verbose: false,
        }
    }
}

/// Where the model process finds the saved states of its model, and writes one.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct StateFiles {
    /// The directory of the states of this model, by its absolute path.
    pub directory: String,
    /// The name in [`SAVING`] of the file that is written to.
    pub scratch: String,
    /// What the label of a state has of the model, beside its size.
    pub model_hash: u64,
}

/// The directory within that of a model's states in which the next ones are written.
pub const SAVING: &str = "saving";

impl StateFiles {
    /// The file of the state of this name.
    pub fn state(&self, name: &str) -> PathBuf {
        Path::new(&self.directory).join(state_name(name))
    }

    /// The directory of files that are written to.
    pub fn saving(&self) -> PathBuf {
        Path::new(&self.directory).join(SAVING)
    }

    /// The file that is written to.
    pub fn scratch(&self) -> PathBuf {
        self.saving().join(&self.scratch)
    }
}

/// The suffix of the files of states.
pub const STATE_SUFFIX: &str = ".state";

/// The file of the state of this name, in its directory.
pub fn state_name(name: &str) -> String {
    format!("{name}{STATE_SUFFIX}")
}

/// How a token is chosen. The defaults are llama.cpp's.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: i32,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
    /// 1 is off.
    pub repeat_penalty: f32,
    /// Tokens; 0 is off, -1 the whole context.
    pub repeat_last_n: i32,
    /// 0 is off.
    pub presence_penalty: f32,
    /// 0 is off.
    pub frequency_penalty: f32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
        }
    }
}

/// When flash attention is used.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub enum FlashAttention {
    /// Always.
    #[serde(rename = "on")]
    On,
    /// Never.
    #[serde(rename = "off")]
    Off,
    /// Where llama.cpp finds it supported.
    #[serde(rename = "auto")]
    Auto,
}

/// The type that the K or V cache is stored in.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub enum KvType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 16-bit brain floats.
    Bf16,
    /// 8 bits a value, in blocks of 32.
    Q8_0,
    /// 4 bits a value, in blocks of 32.
    Q4_0,
    /// 4 bits a value, in blocks of 32 with a minimum.
    Q4_1,
    /// 4 bits a value, not linear.
    Iq4Nl,
    /// 5 bits a value, in blocks of 32.
    Q5_0,
    /// 5 bits a value, in blocks of 32 with a minimum.
    Q5_1,
}

/// Processors that this process may use.
pub fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u32)
}
