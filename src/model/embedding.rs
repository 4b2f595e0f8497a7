//! Embeddings: in a context of their own, so that the prompt cache stays as it is.

use std::iter;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaPoolingType;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;

use super::load;
use super::sequence::check_logits;
use super::vocabulary;
use crate::failure::{Code, Failure};
use crate::message::Embedding;
use crate::settings::Load;

/// Tokens that the context is made for at the least; memory is taken for as many.
const SMALLEST: u32 = 512;

/// Computes embeddings.
pub(super) struct Embedder<'model> {
    backend: &'model LlamaBackend,
    model: &'model LlamaModel,
    load: &'model Load,
    /// Tokens of a text at the most.
    limit: u32,
    /// Made when it is first needed, and anew for a longer text; with its size in tokens.
    context: Option<(u32, LlamaContext<'model>)>,
}

impl<'model> Embedder<'model> {
    /// Gets ready; takes no memory yet.
    pub(super) fn new(
        backend: &'model LlamaBackend,
        model: &'model LlamaModel,
        load: &'model Load,
        context_size: u32,
    ) -> Self {
        Self {
            backend,
            model,
            load,
            limit: context_size.min(load.batch_size),
            context: None,
        }
    }

    /// The embedding of a text: pooled as the model says, else the mean over its tokens; of
    /// length 1.
    ///
    /// # Errors
    /// A text that is longer than the batch, a model that cannot embed.
    pub(super) fn embed(&mut self, text: &str) -> Result<Embedding, Failure> {
        vocabulary::expect_room(self.model, iter::once(text), "Text", self.limit)?;
        let tokens = vocabulary::whole(self.model, text);
        let count = tokens.len() as u32;
        if tokens.is_empty() {
            return Err(Failure::bad_request("The text has no tokens"));
        }
        if count > self.limit {
            let message = format!(
                "Text of {count} tokens exceeds the batch of {} tokens",
                self.limit
            );
            return Err(Failure::new(Code::ContextExceeded, message));
        }
        let internal = |error: String| Failure::new(Code::Internal, error);
        let mut batch = LlamaBatch::new(tokens.len(), 1);
        for (position, token) in tokens.iter().enumerate() {
            batch
                .add(*token, position as i32, &[0], true)
                .map_err(|error| internal(error.to_string()))?;
        }
        let context = self.context(count)?;
        context.clear_kv_cache();
        context
            .decode(&mut batch)
            .map_err(|error| internal(format!("llama.cpp cannot evaluate the text: {error}")))?;
        let values = context
            .embeddings_seq_ith(0)
            .map_err(|error| internal(error.to_string()))?;
        check_logits(values)?;
        Ok(Embedding {
            values: normalised(values),
            prompt_tokens: count,
        })
    }

    fn context(&mut self, tokens: u32) -> Result<&mut LlamaContext<'model>, Failure> {
        let fits = self.context.take_if(|(size, _)| *size >= tokens);
        let context = match fits {
            Some(context) => context,
            None => {
                let size = tokens.next_power_of_two().max(SMALLEST).min(self.limit);
                let pooling = pooling(self.model)?;
                let context =
                    load::embedding_context(self.backend, self.model, self.load, size, pooling)
                        .map_err(|error| Failure::new(Code::Internal, error))?;
                (size, context)
            }
        };
        Ok(&mut self.context.insert(context).1)
    }
}

/// Whether a model can do nothing but embed: its attention sees what comes after a token, too.
pub(super) fn only_embeds(model: &LlamaModel) -> bool {
    let causal = load::own_metadata(model, "attention.causal");
    causal.as_deref() == Some("false")
}

/// As the model says, else the mean.
fn pooling(model: &LlamaModel) -> Result<LlamaPoolingType, Failure> {
    let own = load::own_metadata(model, "pooling_type");
    match own.as_deref() {
        None | Some("0") => Ok(LlamaPoolingType::Mean),
        Some("4") => Err(Failure::new(
            Code::Unsupported,
            "The model ranks pairs of texts; it does not embed them",
        )),
        Some(_) => Ok(LlamaPoolingType::Unspecified),
    }
}

/// Of length 1, each number with the digits that its own precision has.
fn normalised(values: &[f32]) -> Vec<f64> {
    let sum: f64 = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
    let length = sum.sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
    values
        .iter()
        .map(|value| {
            let short = (f64::from(*value) * scale) as f32;
            short.to_string().parse().unwrap_or(f64::from(short))
        })
        .collect()
}
