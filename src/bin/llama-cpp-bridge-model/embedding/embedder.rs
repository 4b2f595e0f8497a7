//! Embeddings: texts in a context of their own, so that the prompt cache stays as it is, and for
//! as long as it takes, so that the memory is back afterwards.

use std::iter;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use crate::load;
use crate::sampling::logits::check_logits;
use crate::text::tokenizer;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::Embedding;
use llama_cpp_bridge::shared::settings::ModelParams;

/// Architectures whose attention looks both ways whatever their metadata says, and that generate
/// all the same.
const DIFFUSION: [&str; 4] = ["dream", "llada", "llada-moe", "rnd1"];

/// The one whose attention looks both ways whatever its metadata says, and that only embeds.
const GEMMA_EMBEDDING: &str = "gemma-embedding";

/// Sets out on embeddings.
pub(crate) struct Embedder<'model> {
    backend: &'model LlamaBackend,
    model: &'model LlamaModel,
    load: &'model ModelParams,
    /// Tokens of a text at the most.
    limit: u32,
}

/// Texts whose embeddings are being computed, each as a sequence of its own in one context.
/// Dropping it gives the memory back, at any time.
pub(crate) struct Job<'model> {
    context: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
    pooling: Pooling,
    /// Tokens that are evaluated at a time at the most: what the context was made for.
    most: usize,
    /// Whether all tokens have to be evaluated at once.
    whole: bool,
    texts: Vec<Text>,
}

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy)]
enum Pooling {
    Mean,
    First,
    Last,
}

/// A text on its way.
pub(crate) struct Text {
    tokens: Vec<LlamaToken>,
    evaluated: usize,
    /// What the vectors of the tokens evaluated so far have become; the sum, for the mean.
    pooled: Vec<f64>,
}

impl<'model> Embedder<'model> {
    /// Gets ready; takes no memory yet.
    pub(crate) fn new(
        backend: &'model LlamaBackend,
        model: &'model LlamaModel,
        load: &'model ModelParams,
        context_size: u32,
    ) -> Self {
        Self {
            backend,
            model,
            load,
            limit: context_size,
        }
    }

    /// Sets out on the embeddings of these texts: pooled as the model says, else the mean over
    /// the tokens. They have to fit the memory together.
    ///
    /// # Errors
    /// A model that cannot embed.
    pub(crate) fn start(&self, texts: Vec<Text>) -> Result<Job<'model>, Failure> {
        let pooling = pooling(self.model)?;
        let tokens: usize = texts.iter().map(|text| text.tokens.len()).sum();
        let whole = looks_both_ways(self.model);
        let most = match whole {
            true => tokens,
            false => tokens.min(self.load.ubatch_size as usize),
        };
        let sequences = texts.len() as u32;
        let context = load::embedding_context(
            self.backend,
            self.model,
            self.load,
            tokens as u32,
            most as u32,
            sequences,
        )
        .map_err(|error| Failure::new(Code::Internal, error))?;
        Ok(Job {
            context,
            batch: LlamaBatch::new(most, 1),
            pooling,
            most,
            whole,
            texts,
        })
    }

    /// A text to embed.
    ///
    /// # Errors
    /// One that has no tokens, or more than the context.
    pub(crate) fn text(&self, text: &str) -> Result<Text, Failure> {
        tokenizer::check_size(self.model, iter::once(text), "Text", self.limit)?;
        let tokens = tokenizer::tokenize_whole(self.model, text);
        let (count, limit) = (tokens.len(), self.limit);
        if count == 0 {
            return Err(Failure::bad_request("The text has no tokens"));
        }
        if count > limit as usize {
            let message = format!("Text of {count} tokens exceeds the context of {limit} tokens");
            return Err(Failure::new(Code::ContextExceeded, message));
        }
        Ok(Text {
            tokens,
            evaluated: 0,
            pooled: Vec::new(),
        })
    }

    /// Embeds one token: most files that kill llama.cpp do so here, before anyone relies on the
    /// model.
    ///
    /// # Errors
    /// A model that cannot do it.
    pub(crate) fn try_out(&self) -> Result<(), Failure> {
        let mut job = self.start(vec![self.text("a")?])?;
        while !job.done() {
            job.step(job.room(usize::MAX))?;
        }
        job.finish()
            .into_iter()
            .try_for_each(|tried| tried.map(drop))
    }
}

impl Job<'_> {
    /// Whether all tokens of all texts are evaluated.
    pub(crate) fn done(&self) -> bool {
        self.texts.iter().all(Text::done)
    }

    /// How many tokens to evaluate next: a chunk, if the context was made for so many, or all of
    /// them if the model's attention looks both ways.
    pub(crate) fn room(&self, chunk: usize) -> usize {
        let left: usize = self.texts.iter().map(|t| t.len() - t.evaluated).sum();
        match self.whole {
            true => left,
            false => left.min(chunk.clamp(1, self.most)),
        }
    }

    /// Evaluates the next tokens, `room` of them. Returns how many they were.
    ///
    /// # Errors
    /// llama.cpp cannot evaluate them.
    pub(crate) fn step(&mut self, room: usize) -> Result<usize, Failure> {
        let internal = |error: String| Failure::new(Code::Internal, error);
        self.batch.clear();
        // For each token of the batch the text that it belongs to.
        let mut owners = Vec::new();
        for (sequence, text) in self.texts.iter().enumerate() {
            let left = room - owners.len();
            let end = text.tokens.len().min(text.evaluated + left);
            for position in text.evaluated..end {
                self.batch
                    .add(
                        text.tokens[position],
                        position as i32,
                        &[sequence as i32],
                        true,
                    )
                    .map_err(|error| internal(error.to_string()))?;
                owners.push(sequence);
            }
        }
        self.context
            .decode(&mut self.batch)
            .map_err(|error| internal(format!("llama.cpp cannot evaluate the text: {error}")))?;
        for (at, owner) in owners.iter().enumerate() {
            let vector = self
                .context
                .embeddings_ith(at as i32)
                .map_err(|error| internal(error.to_string()))?;
            self.texts[*owner].take(vector, self.pooling);
        }
        Ok(owners.len())
    }

    /// The embeddings, of length 1, in the order of the texts.
    ///
    /// # Errors
    /// For each text: values that are not finite numbers.
    pub(crate) fn finish(self) -> Vec<Result<Embedding, Failure>> {
        self.texts.iter().map(Text::embedding).collect()
    }
}

impl Text {
    /// Its tokens.
    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    fn done(&self) -> bool {
        self.evaluated == self.tokens.len()
    }

    /// Takes the vector of the next token.
    fn take(&mut self, vector: &[f32], pooling: Pooling) {
        let wide = || vector.iter().map(|value| f64::from(*value));
        match pooling {
            Pooling::Last => self.pooled = wide().collect(),
            _ if self.evaluated == 0 => self.pooled = wide().collect(),
            Pooling::First => (),
            Pooling::Mean => self
                .pooled
                .iter_mut()
                .zip(wide())
                .for_each(|(sum, value)| *sum += value),
        }
        self.evaluated += 1;
    }

    fn embedding(&self) -> Result<Embedding, Failure> {
        let values: Vec<f32> = self.pooled.iter().map(|value| *value as f32).collect();
        check_logits(&values)?;
        Ok(Embedding {
            // Of length 1, so that a sum does for the mean.
            values: normalised(&self.pooled),
            prompt_tokens: self.tokens.len() as u32,
        })
    }
}

/// Whether a model can do nothing but embed.
pub(crate) fn only_embeds(model: &LlamaModel) -> bool {
    let causal = load::own_metadata(model, "attention.causal");
    causal.as_deref() == Some("false") || load::architecture(model) == GEMMA_EMBEDDING
}

/// Whether its attention sees what comes after a token, too.
fn looks_both_ways(model: &LlamaModel) -> bool {
    only_embeds(model) || DIFFUSION.contains(&load::architecture(model).as_str())
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

/// Of length 1, each number with the digits that its own precision has.
fn normalised(values: &[f64]) -> Vec<f64> {
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
