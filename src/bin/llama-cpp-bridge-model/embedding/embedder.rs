//! Embeddings: texts in a context of their own, so that the prompt cache stays as it is. The context
//! lasts only as long as it is needed, so that its memory is freed afterwards.

use std::iter;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use crate::load;
use crate::sampling::check_logits;
use crate::text;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::Embedding;
use llama_cpp_bridge::shared::settings::ModelParams;

/// Architectures whose attention is not causal, whatever their metadata says, and that still
/// generate.
const DIFFUSION: [&str; 4] = ["dream", "llada", "llada-moe", "rnd1"];

/// The one whose attention is not causal, whatever its metadata says, and that only embeds.
const GEMMA_EMBEDDING: &str = "gemma-embedding";

/// Starts runs of embeddings.
pub(super) struct Embedder<'model> {
    backend: &'model LlamaBackend,
    model: &'model LlamaModel,
    load: &'model ModelParams,
    /// The most tokens of a text.
    max_tokens: u32,
}

/// Texts whose embeddings are being computed, each as a sequence of its own in one context. Dropping
/// it frees the memory, at any time.
pub(super) struct Run<'model> {
    context: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
    pooling: Pooling,
    /// The most tokens in a batch: what the context was made for.
    n_batch: usize,
    /// Whether all tokens have to be evaluated in one batch.
    one_batch: bool,
    inputs: Vec<Input>,
}

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy)]
enum Pooling {
    Mean,
    First,
    Last,
}

/// A text to embed.
pub(super) struct Input {
    tokens: Vec<LlamaToken>,
    n_evaluated: usize,
    /// The vectors of the tokens evaluated so far, pooled; for the mean, their sum.
    pooled: Vec<f64>,
}

impl<'model> Embedder<'model> {
    /// Takes no memory yet.
    pub(super) fn new(
        backend: &'model LlamaBackend,
        model: &'model LlamaModel,
        load: &'model ModelParams,
        context_size: u32,
    ) -> Self {
        Self {
            backend,
            model,
            load,
            max_tokens: context_size,
        }
    }

    /// Starts a run of these texts. The vectors of their tokens are pooled as the model says, else to
    /// their mean.
    ///
    /// # Errors
    /// A model that cannot embed.
    pub(super) fn start(&self, inputs: Vec<Input>) -> Result<Run<'model>, Failure> {
        let pooling = pooling(self.model)?;
        let n_tokens: usize = inputs.iter().map(Input::len).sum();
        let one_batch = !is_causal(self.model);
        let n_batch = match one_batch {
            true => n_tokens,
            false => n_tokens.min(self.load.ubatch_size as usize),
        };
        let n_seq_max = inputs.len() as u32;
        let context = load::embedding_context(
            self.backend,
            self.model,
            self.load,
            n_tokens as u32,
            n_batch as u32,
            n_seq_max,
        )
        .map_err(|error| Failure::new(Code::Internal, error))?;
        Ok(Run {
            context,
            batch: LlamaBatch::new(n_batch, 1),
            pooling,
            n_batch,
            one_batch,
            inputs,
        })
    }

    /// Tokenizes a text.
    ///
    /// # Errors
    /// A text that has no tokens, or more than the context.
    pub(super) fn input(&self, text: &str) -> Result<Input, Failure> {
        text::check_size(self.model, iter::once(text), "Text", self.max_tokens)?;
        let tokens = text::tokenize_whole(self.model, text);
        let (count, limit) = (tokens.len(), self.max_tokens);
        if count == 0 {
            return Err(Failure::bad_request("The text has no tokens"));
        }
        if count > limit as usize {
            let message = format!("Text of {count} tokens exceeds the context of {limit} tokens");
            return Err(Failure::new(Code::ContextExceeded, message));
        }
        Ok(Input {
            tokens,
            n_evaluated: 0,
            pooled: Vec::new(),
        })
    }

    /// Embeds one token: most files that crash llama.cpp do so here, before anyone relies on the
    /// model.
    ///
    /// # Errors
    /// A model that cannot do it.
    pub(super) fn try_out(&self) -> Result<(), Failure> {
        let mut run = self.start(vec![self.input("a")?])?;
        while !run.is_done() {
            run.step(run.next_tokens(usize::MAX))?;
        }
        run.finish()
            .into_iter()
            .try_for_each(|embedding| embedding.map(drop))
    }
}

impl Run<'_> {
    /// Whether all tokens of all texts are evaluated.
    pub(super) fn is_done(&self) -> bool {
        self.inputs.iter().all(Input::is_done)
    }

    /// How many tokens to evaluate next: a chunk, if the context was made for as many, or all of them
    /// if the model's attention is not causal.
    pub(super) fn next_tokens(&self, chunk: usize) -> usize {
        let left: usize = self.inputs.iter().map(Input::n_pending).sum();
        match self.one_batch {
            true => left,
            false => left.min(chunk.clamp(1, self.n_batch)),
        }
    }

    /// Evaluates the next tokens, at most `n_tokens`. Returns how many they were.
    ///
    /// # Errors
    /// llama.cpp cannot evaluate them.
    pub(super) fn step(&mut self, n_tokens: usize) -> Result<usize, Failure> {
        let internal = |error: String| Failure::new(Code::Internal, error);
        self.batch.clear();
        // For each token of the batch the text that it belongs to.
        let mut owners = Vec::new();
        for (seq, input) in self.inputs.iter().enumerate() {
            let left = n_tokens - owners.len();
            let end = input.len().min(input.n_evaluated + left);
            for position in input.n_evaluated..end {
                let token = input.tokens[position];
                self.batch
                    .add(token, position as i32, &[seq as i32], true)
                    .map_err(|error| internal(error.to_string()))?;
                owners.push(seq);
            }
        }
        self.context
            .decode(&mut self.batch)
            .map_err(|error| internal(format!("llama.cpp cannot evaluate the text: {error}")))?;
        for (index, owner) in owners.iter().enumerate() {
            let vector = self
                .context
                .embeddings_ith(index as i32)
                .map_err(|error| internal(error.to_string()))?;
            self.inputs[*owner].add(vector, self.pooling);
        }
        Ok(owners.len())
    }

    /// The embeddings, of length 1, in the order of the texts.
    ///
    /// # Errors
    /// For each text: values that are not finite numbers.
    pub(super) fn finish(self) -> Vec<Result<Embedding, Failure>> {
        self.inputs.iter().map(Input::embedding).collect()
    }
}

impl Input {
    /// How many tokens it has.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    fn n_pending(&self) -> usize {
        self.tokens.len() - self.n_evaluated
    }

    fn is_done(&self) -> bool {
        self.n_pending() == 0
    }

    /// Adds the vector of the next token.
    fn add(&mut self, vector: &[f32], pooling: Pooling) {
        let wide = || vector.iter().map(|value| f64::from(*value));
        match pooling {
            Pooling::Last => self.pooled = wide().collect(),
            _ if self.n_evaluated == 0 => self.pooled = wide().collect(),
            Pooling::First => (),
            Pooling::Mean => self
                .pooled
                .iter_mut()
                .zip(wide())
                .for_each(|(sum, value)| *sum += value),
        }
        self.n_evaluated += 1;
    }

    fn embedding(&self) -> Result<Embedding, Failure> {
        let values: Vec<f32> = self.pooled.iter().map(|value| *value as f32).collect();
        check_logits(&values)?;
        Ok(Embedding {
            // Of length 1, so that a sum does for the mean.
            values: normalized(&self.pooled),
            prompt_tokens: self.tokens.len() as u32,
        })
    }
}

/// Whether a model can only embed.
pub fn only_embeds(model: &LlamaModel) -> bool {
    let causal = load::own_metadata(model, "attention.causal");
    causal.as_deref() == Some("false") || load::architecture(model) == GEMMA_EMBEDDING
}

/// Whether its attention sees only what comes before a token.
fn is_causal(model: &LlamaModel) -> bool {
    !only_embeds(model) && !DIFFUSION.contains(&load::architecture(model).as_str())
}

/// As the model says, else the mean. The numbers are llama.cpp's.
fn pooling(model: &LlamaModel) -> Result<Pooling, Failure> {
    let own = load::own_metadata(model, "pooling_type");
    let unsupported = |message: &str| Err(Failure::new(Code::Unsupported, message));
    match own.as_deref() {
        None | Some("0" | "1") => Ok(Pooling::Mean),
        Some("2") => Ok(Pooling::First),
        Some("3") => Ok(Pooling::Last),
        Some("4") => unsupported("The model ranks pairs of texts; it does not embed them"),
        Some(other) => unsupported(&format!("The model's pooling type {other} is not known")),
    }
}

/// Scaled to length 1, each number with the digits that an f32 has.
fn normalized(values: &[f64]) -> Vec<f64> {
    let sum: f64 = values.iter().map(|value| value * value).sum();
    let length = sum.sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
    values
        .iter()
        .map(|value| {
            let short = (value * scale) as f32;
            short.to_string().parse().unwrap_or(f64::from(short))
        })
        .collect()
}
