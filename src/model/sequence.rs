//! One request under way: its prompt, its sampler, and the text it has so far.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;

use super::sampling;
use super::text::Text;
use crate::message::{Done, Generate};
use crate::reply::{Code, Failure};

/// A request under way.
pub(super) struct Sequence {
    /// The request's own number.
    pub(super) id: u64,
    /// The sequence of the context that it uses.
    pub(super) place: i32,
    /// The prompt, then every token that was generated.
    tokens: Vec<LlamaToken>,
    prompt_length: usize,
    /// How many of the tokens the context has evaluated.
    evaluated: usize,
    /// Tokens to generate at the most.
    max_tokens: usize,
    context_size: usize,
    sampler: LlamaSampler,
    text: Text,
    output: String,
    /// Where in the batch the token is whose logits choose the next one.
    output_index: Option<i32>,
}

/// Whether a sequence goes on.
#[derive(PartialEq)]
pub(super) enum Progress {
    Going,
    Done,
}

impl Sequence {
    /// Sets out on a request.
    ///
    /// # Errors
    /// A prompt that does not fit the context, or of no tokens at all.
    pub(super) fn new(
        id: u64,
        place: i32,
        model: &LlamaModel,
        context_size: u32,
        request: &Generate,
    ) -> Result<Self, Failure> {
        let tokens = model
            .vocab()
            .tokenize(request.prompt.as_bytes(), true, true);
        if tokens.is_empty() {
            return Err(Failure::bad_request("The prompt has no tokens"));
        }
        if tokens.len() > context_size as usize {
            let message = format!(
                "Prompt of {} tokens exceeds the context of {context_size} tokens",
                tokens.len()
            );
            return Err(Failure::new(Code::ContextExceeded, message));
        }
        let sampler = sampling::chain(
            model,
            &request.sampling,
            request.seed,
            context_size,
            &tokens,
        );
        Ok(Self {
            id,
            place,
            prompt_length: tokens.len(),
            tokens,
            evaluated: 0,
            max_tokens: usize::try_from(request.max_tokens).unwrap_or(usize::MAX),
            context_size: context_size as usize,
            sampler,
            text: Text::default(),
            output: String::new(),
            output_index: None,
        })
    }

    /// The prompt.
    pub(super) fn prompt(&self) -> &[LlamaToken] {
        &self.tokens[..self.prompt_length]
    }

    /// What has been evaluated, and so is in the cache.
    pub(super) fn evaluated(&self) -> &[LlamaToken] {
        &self.tokens[..self.evaluated]
    }

    /// Counts the first tokens of the prompt as evaluated: the cache has them.
    pub(super) fn skip(&mut self, count: usize) {
        self.evaluated = count;
    }

    /// Adds its next tokens to the batch, up to `room` of them; returns how many.
    pub(super) fn fill(&mut self, batch: &mut LlamaBatch<'_>, room: usize) -> usize {
        let end = self.tokens.len().min(self.evaluated + room);
        let before = batch.n_tokens();
        for position in self.evaluated..end {
            let last = position + 1 == self.tokens.len();
            let added = batch.add(self.tokens[position], position as i32, &[self.place], last);
            if added.is_err() {
                break;
            }
        }
        let added = (batch.n_tokens() - before) as usize;
        let complete = self.evaluated + added == self.tokens.len() && added > 0;
        self.output_index = complete.then(|| batch.n_tokens() - 1);
        added
    }

    /// Notes that the batch was evaluated, and samples the next token if its logits are there.
    ///
    /// # Errors
    /// Logits that are not finite.
    pub(super) fn advance(
        &mut self,
        added: usize,
        model: &LlamaModel,
        context: &LlamaContext<'_>,
    ) -> Result<Progress, Failure> {
        self.evaluated += added;
        let Some(index) = self.output_index.take() else {
            return Ok(Progress::Going);
        };
        if self.generated() >= self.max_tokens {
            return Ok(Progress::Done);
        }
        check_logits(context.get_logits_ith(index))?;
        let token = self.sampler.sample(context, index);
        if model.vocab().is_eog(token) {
            return Ok(Progress::Done);
        }
        self.tokens.push(token);
        let piece = model.vocab().token_to_piece(token, false, None);
        self.output.push_str(&self.text.push(&piece));
        let full = self.generated() >= self.max_tokens || self.tokens.len() > self.context_size;
        Ok(if full {
            Progress::Done
        } else {
            Progress::Going
        })
    }

    fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_length
    }

    /// The answer.
    pub(super) fn finish(&mut self) -> Done {
        let mut text = std::mem::take(&mut self.output);
        text.push_str(self.text.finish());
        Done { text }
    }
}

/// Looks whether a token can be chosen by these logits at all. llama.cpp does not: it would give
/// an empty answer.
///
/// # Errors
/// NaN or positive infinity among them, or nothing but negative infinity.
pub(super) fn check_logits(logits: &[f32]) -> Result<(), Failure> {
    let wrong = logits.iter().any(|l| l.is_nan() || *l == f32::INFINITY);
    if wrong || logits.iter().all(|l| *l == f32::NEG_INFINITY) {
        let message = "The model computed values that are not finite numbers";
        return Err(Failure::new(Code::Internal, message));
    }
    Ok(())
}
