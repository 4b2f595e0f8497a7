//! Whether there is enough memory for a model: llama.cpp would find out by being killed, or by making
//! the machine swap. What is not known is not counted, so that no model is rejected that would have
//! fit.

use llama_cpp_2::model::LlamaModel;

use crate::load::{self, own_metadata};
use llama_cpp_bridge::shared::settings::{KvType, ModelParams};
use llama_cpp_bridge::sys::memory::{Available, shown};

/// Metadata of models whose cache is smaller than layers times tokens, each in its own way.
const SMALLER_CACHES: [&str; 6] = [
    "ssm.state_size",
    "wkv.head_size",
    "attention.sliding_window",
    "attention.kv_lora_rank",
    "attention.shared_kv_layers",
    "attention.recurrent_layers",
];

/// What is known of the memory before anything is loaded.
pub struct MemoryCheck {
    /// `None` if nothing is to be checked.
    available: Option<Available>,
    /// Bytes of the file and its parts: mapped or read, all are needed for each token.
    weights: u64,
}

impl MemoryCheck {
    /// Measures the memory. With `gpu`, weights and cache may be in the memory of an accelerator, of
    /// which nothing is known here.
    pub fn new(load: &ModelParams, gpu: bool) -> Self {
        let check = !load.force && !gpu;
        Self {
            available: check.then(Available::now).flatten(),
            weights: load.size,
        }
    }

    /// Checks that the weights fit.
    ///
    /// # Errors
    /// The numbers, if they do not.
    pub fn for_weights(&self) -> Result<(), String> {
        self.check(&[("weights", self.weights)], "")
    }

    /// Checks that the context fits beside them, by the metadata of the model.
    ///
    /// # Errors
    /// The numbers, if it does not.
    pub fn for_context(
        &self,
        model: &LlamaModel,
        load: &ModelParams,
        tokens: u32,
    ) -> Result<(), String> {
        let parts = [
            ("weights", self.weights),
            ("context", cache(model, load, tokens)),
            ("buffers", buffers(model, load, tokens)),
        ];
        self.check(&parts, "a smaller --ctx-size needs less, ")
    }

    fn check(&self, parts: &[(&str, u64)], hint: &str) -> Result<(), String> {
        let total = parts
            .iter()
            .fold(0u64, |sum, (_, size)| sum.saturating_add(*size));
        match self.available {
            Some(available) if total > available.bytes => {
                let parts: Vec<String> = parts
                    .iter()
                    .map(|(name, size)| format!("{name} {}", shown(*size)))
                    .collect();
                Err(format!(
                    "needs at least {} of memory ({}), but {} is {}; \
                     {hint}--force-load tries anyway",
                    shown(total),
                    parts.join(", "),
                    shown(available.bytes),
                    available.place()
                ))
            }
            _ => Ok(()),
        }
    }
}

/// Bytes of the cached keys and values; 0 for a model whose cache is of another kind.
fn cache(model: &LlamaModel, load: &ModelParams, tokens: u32) -> u64 {
    let special = SMALLER_CACHES
        .iter()
        .any(|key| own_metadata(model, key).is_some());
    let causal = own_metadata(model, "attention.causal").is_none_or(|value| value != "false");
    if special || !causal || model.is_recurrent() || model.is_hybrid() {
        return 0;
    }
    // If layers differ, that is a list, of which only the first entry can be read.
    let uniform = own_metadata(model, "attention.head_count_kv").is_some();
    if !uniform || model.n_head() == 0 {
        return 0;
    }
    let usual = u64::from(model.n_embd().unsigned_abs() / model.n_head());
    let length = |key| {
        let own = own_metadata(model, key).and_then(|value| value.parse().ok());
        own.unwrap_or(usual)
    };
    let numbers = u64::from(model.n_layer()) * u64::from(model.n_head_kv()) * u64::from(tokens);
    let keys = numbers.saturating_mul(length("attention.key_length"));
    let values = numbers.saturating_mul(length("attention.value_length"));
    let bytes = |numbers: u64, cache| (numbers as f64 * bytes_per_number(cache)) as u64;
    bytes(keys, load.cache_type_k).saturating_add(bytes(values, load.cache_type_v))
}

/// Bytes of the logits of a step, and of what is passed between layers.
fn buffers(model: &LlamaModel, load: &ModelParams, tokens: u32) -> u64 {
    let logits =
        u64::from(load::n_seq_max(load, tokens)) * u64::from(model.n_vocab().unsigned_abs());
    let batch = u64::from(load.ubatch_size.min(load.batch_size).min(tokens));
    let between = batch * u64::from(model.n_embd().unsigned_abs());
    (logits + between) * size_of::<f32>() as u64
}

/// Bytes of a number in the cache, including its share of the scales of a block.
fn bytes_per_number(cache: KvType) -> f64 {
    match cache {
        KvType::F32 => 4.0,
        KvType::F16 | KvType::Bf16 => 2.0,
        KvType::Q8_0 => 34.0 / 32.0,
        KvType::Q4_0 | KvType::Iq4Nl => 18.0 / 32.0,
        KvType::Q4_1 => 20.0 / 32.0,
        KvType::Q5_0 => 22.0 / 32.0,
        KvType::Q5_1 => 24.0 / 32.0,
    }
}
