//! Loading: a model from its file, and a context for it.

use std::num::NonZeroU32;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams, LlamaPoolingType};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;

use crate::tuning::requested_threads;
use llama_cpp_bridge::shared::ranges::MAX_CONTEXT;
use llama_cpp_bridge::shared::settings::{DEFAULT_CONTEXT, FlashAttention, KvType, ModelParams};

/// Loads the model. If llama.cpp aborts instead of failing, this does not return.
///
/// # Errors
/// That it failed; the reason is in llama.cpp's log.
pub fn model(backend: &LlamaBackend, load: &ModelParams) -> Result<LlamaModel, String> {
    let mut params = LlamaModelParams::default()
        .with_use_mmap(load.mmap)
        .with_use_mlock(load.mlock);
    if let Some(layers) = load.gpu_layers {
        params = params.with_n_gpu_layers(layers);
    }
    LlamaModel::load_from_file(backend, &load.file, &params)
        .map_err(|_| "llama.cpp failed to load it (no reason given; try --verbose)".to_string())
}

/// Tokens of the context: what was asked for, but at most what the model was trained with.
pub fn context_size(model: &LlamaModel, load: &ModelParams) -> u32 {
    let own = match model.n_ctx_train() {
        0 => MAX_CONTEXT,
        size => size.min(MAX_CONTEXT),
    };
    match load.ctx_size.unwrap_or(DEFAULT_CONTEXT) {
        0 => own,
        asked => asked.min(own),
    }
}

/// How many sequences a context of `size` tokens has: as many as were asked for, but each must be
/// able to add a token to one batch.
pub fn n_seq_max(load: &ModelParams, size: u32) -> u32 {
    load.parallel.min(load.batch_size).min(size).max(1)
}

/// Creates the context of a model: one set of cells, which all sequences share.
///
/// # Errors
/// That it failed; the reason is in llama.cpp's log.
pub fn context<'model>(
    backend: &LlamaBackend,
    model: &'model LlamaModel,
    load: &ModelParams,
    size: u32,
) -> Result<LlamaContext<'model>, String> {
    let params = params(load, size)
        .with_n_batch(load.batch_size)
        .with_n_ubatch(load.ubatch_size.min(load.batch_size))
        .with_n_seq_max(n_seq_max(load, size))
        .with_kv_unified(true);
    create(backend, model, params)
}

/// Creates a context for embeddings of `n_ctx` tokens in all, of which up to `n_batch` are evaluated
/// at a time, in `n_seq_max` sequences. It gives the vector of each token.
///
/// # Errors
/// That it failed; the reason is in llama.cpp's log.
pub fn embedding_context<'model>(
    backend: &LlamaBackend,
    model: &'model LlamaModel,
    load: &ModelParams,
    n_ctx: u32,
    n_batch: u32,
    n_seq_max: u32,
) -> Result<LlamaContext<'model>, String> {
    let params = params(load, n_ctx)
        .with_n_batch(n_batch)
        .with_n_ubatch(n_batch)
        .with_n_seq_max(n_seq_max)
        .with_kv_unified(true)
        .with_embeddings(true)
        .with_pooling_type(LlamaPoolingType::None);
    create(backend, model, params)
}

/// The architecture of a model, `llama` for instance.
pub fn architecture(model: &LlamaModel) -> String {
    metadata(model, "general.architecture").unwrap_or_default()
}

/// The metadata of a model under its architecture and this name.
pub fn own_metadata(model: &LlamaModel, name: &str) -> Option<String> {
    metadata(model, &format!("{}.{name}", architecture(model)))
}

/// The metadata of a model under this key.
pub fn metadata(model: &LlamaModel, key: &str) -> Option<String> {
    model.meta_val_str(key).ok()
}

fn params(load: &ModelParams, size: u32) -> LlamaContextParams {
    let requested = requested_threads(load);
    LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(size))
        .with_n_threads(requested.single as i32)
        .with_n_threads_batch(requested.batch as i32)
        .with_flash_attention_policy(match load.flash_attn {
            FlashAttention::Auto => -1,
            FlashAttention::Off => 0,
            FlashAttention::On => 1,
        })
        .with_type_k(cache_type(load.cache_type_k))
        .with_type_v(cache_type(load.cache_type_v))
        .with_swa_full(load.swa_full)
}

fn create<'model>(
    backend: &LlamaBackend,
    model: &'model LlamaModel,
    params: LlamaContextParams,
) -> Result<LlamaContext<'model>, String> {
    model.new_context(backend, params).map_err(|_| {
        "llama.cpp failed to create a context for it (no reason given; try --verbose)".to_string()
    })
}

fn cache_type(cache: KvType) -> KvCacheType {
    match cache {
        KvType::F32 => KvCacheType::F32,
        KvType::F16 => KvCacheType::F16,
        KvType::Bf16 => KvCacheType::BF16,
        KvType::Q8_0 => KvCacheType::Q8_0,
        KvType::Q4_0 => KvCacheType::Q4_0,
        KvType::Q4_1 => KvCacheType::Q4_1,
        KvType::Iq4Nl => KvCacheType::IQ4_NL,
        KvType::Q5_0 => KvCacheType::Q5_0,
        KvType::Q5_1 => KvCacheType::Q5_1,
    }
}
