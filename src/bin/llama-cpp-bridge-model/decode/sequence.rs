//! A request for text: its prompt, how it chooses tokens, and the text it has so far.

use std::rc::Rc;
use std::time::Instant;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use crate::decode::draft::{AcceptRate, Draft, DraftOutcome};
use crate::kv::{Assignment, SeqId};
use crate::sampling::{Logits, Sampler, TokenIndex};
use crate::text::Output;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::{Done, FinishReason, Generate};

/// A request for text.
pub(super) struct Sequence {
    /// The number of the request.
    pub(super) id: u64,
    /// The sequence of the context that it uses, unless it is queued.
    pub(super) seq: SeqId,
    pub(super) phase: Phase,
    /// Whether the client wants pieces as they come.
    pub(super) stream: bool,
    /// Whether the cache may be used for its prompt.
    pub(super) reuse: bool,
    /// Whether its logits may be the ones that are not finite: it then runs alone.
    pub(super) suspect: bool,
    /// After how many of its tokens a batch has to end, so that a checkpoint can be taken.
    pub(super) checkpoint_at: Vec<usize>,
    /// After how many of them the last one was taken.
    pub(super) last_checkpoint: usize,
    /// The prompt, then every token that was generated.
    tokens: Vec<LlamaToken>,
    n_prompt: usize,
    /// Tokens of the prompt that were cached.
    n_cached: usize,
    /// How many of the tokens the context has evaluated.
    n_evaluated: usize,
    max_tokens: usize,
    /// Bytes that its text may have.
    max_text: usize,
    context_size: usize,
    seed: u32,
    sampler: Sampler,
    output: Output,
    draft: Draft,
    timings: Timings,
}

/// What is done for a request now.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Phase {
    /// Nothing: it has no sequence of the context, yet or any more.
    Queued,
    /// Another request, with this number, evaluates the tokens that both prompts begin with.
    WaitOther { leader: u64, shared: usize },
    /// Its prompt is evaluated, and what it had generated before it was preempted.
    Prompt,
    /// It gets a token, or several by a draft, with each batch.
    Generating,
}

/// When a request was worked on.
#[derive(Default)]
struct Timings {
    start: Option<Instant>,
    /// When the whole prompt had been evaluated.
    prompt_end: Option<Instant>,
}

/// What a batch has of a sequence.
pub(super) struct BatchPart {
    /// Its tokens, without the draft.
    pub(super) n_tokens: usize,
    /// The index in the batch of the token whose logits choose the next one.
    output: Option<i32>,
}

/// Whether a sequence goes on.
#[derive(PartialEq)]
pub(super) enum StepResult {
    Continue,
    Finished(FinishReason),
    /// Its logits are not finite.
    NotFinite,
}

impl Sequence {
    /// A request whose prompt is these tokens.
    ///
    /// # Errors
    /// A prompt that does not fit the context, or has no tokens at all; a grammar that cannot be
    /// used.
    pub(super) fn new(
        id: u64,
        model: &LlamaModel,
        token_index: &Rc<TokenIndex>,
        (context_size, max_text): (u32, usize),
        tokens: Vec<LlamaToken>,
        request: &Generate,
    ) -> Result<Self, Failure> {
        if tokens.is_empty() {
            return Err(Failure::bad_request("The prompt has no tokens"));
        }
        if tokens.len() > context_size as usize {
            return Err(too_long(tokens.len(), context_size));
        }
        Ok(Self {
            id,
            seq: SeqId::default(),
            phase: Phase::Queued,
            stream: request.stream,
            reuse: request.cache_prompt,
            suspect: false,
            checkpoint_at: Vec::new(),
            last_checkpoint: 0,
            n_prompt: tokens.len(),
            n_cached: 0,
            n_evaluated: 0,
            max_tokens: usize::try_from(request.max_tokens).unwrap_or(usize::MAX),
            max_text,
            context_size: context_size as usize,
            seed: request.seed,
            sampler: Sampler::new(model, token_index, request, context_size, &tokens)?,
            tokens,
            output: Output::new(request.stop.clone()),
            draft: Draft::default(),
            timings: Timings::default(),
        })
    }

    /// The prompt and what was generated.
    pub(super) fn tokens(&self) -> &[LlamaToken] {
        &self.tokens
    }

    /// How many of the tokens the context has evaluated.
    pub(super) fn n_evaluated(&self) -> usize {
        self.n_evaluated
    }

    /// How many are still to be evaluated; while it generates, the last one.
    pub(super) fn n_pending(&self) -> usize {
        self.tokens.len() - self.n_evaluated
    }

    /// How many of those the next batch may take.
    pub(super) fn max_in_batch(&self) -> usize {
        let later = self.checkpoint_at.iter();
        let next = later.filter(|position| **position > self.n_evaluated).min();
        let until_next = next.unwrap_or(&usize::MAX) - self.n_evaluated;
        self.n_pending().min(until_next)
    }

    /// Starts, or starts again, in a sequence that holds its first tokens.
    pub(super) fn start(&mut self, assignment: Assignment) {
        self.seq = assignment.seq;
        self.checkpoint_at = assignment.checkpoint_at;
        self.timings.start.get_or_insert_with(Instant::now);
        self.skip(assignment.n_cached);
    }

    /// Begins, or goes on, after the first `n_cached` tokens, which need no evaluation.
    pub(super) fn skip(&mut self, n_cached: usize) {
        self.phase = Phase::Prompt;
        self.n_evaluated = n_cached;
        self.last_checkpoint = n_cached;
        if self.timings.prompt_end.is_none() {
            self.n_cached = n_cached;
        }
    }

    /// Notes that its sequence has been moved or truncated, and how many tokens are left in it.
    pub(super) fn moved(&mut self, n_evaluated: usize) {
        self.n_evaluated = n_evaluated;
        self.last_checkpoint = self.last_checkpoint.min(n_evaluated);
        if self.n_pending() > 1 && self.phase == Phase::Generating {
            self.phase = Phase::Prompt;
        }
    }

    /// Gives up its sequence. The tokens that it generated stay, to be evaluated with the prompt
    /// when it starts again: so its text goes on as if nothing had happened.
    pub(super) fn preempt(&mut self) {
        self.phase = Phase::Queued;
        self.n_evaluated = 0;
        self.draft.clear();
    }

    /// Adds its next `n_tokens` to the batch, and its draft if they are the last.
    pub(super) fn fill(&mut self, batch: &mut LlamaBatch<'_>, n_tokens: usize) -> BatchPart {
        let seq = [self.seq.raw()];
        let end = self.tokens.len().min(self.n_evaluated + n_tokens);
        let before = batch.n_tokens();
        for position in self.n_evaluated..end {
            let last = position + 1 == self.tokens.len();
            let token = self.tokens[position];
            if batch.add(token, position as i32, &seq, last).is_err() {
                break;
            }
        }
        let added = (batch.n_tokens() - before) as usize;
        let complete = self.n_evaluated + added == self.tokens.len() && added > 0;
        let output = complete.then(|| batch.n_tokens() - 1);
        if complete {
            let first = self.tokens.len();
            self.draft
                .fill(|index, token| batch.add(token, (first + index) as i32, &seq, true).is_ok());
        } else {
            self.draft.clear();
        }
        BatchPart {
            n_tokens: added,
            output,
        }
    }

    /// Guesses its next tokens, the first `draft_len` of which are for the next batch.
    pub(super) fn set_draft(&mut self, tokens: &[LlamaToken], draft_len: usize) {
        self.draft.set(tokens, draft_len);
    }

    /// The longest draft that is of use: the tokens that it may still generate and that fit the
    /// context, but for the one that is chosen anyway; none while a prompt is evaluated.
    pub(super) fn max_draft(&self) -> usize {
        if self.phase != Phase::Generating {
            return 0;
        }
        let space = self.context_size - self.tokens.len();
        self.max_left().saturating_sub(1).min(space)
    }

    /// How often its drafts were right so far.
    pub(super) fn accept_rate(&self) -> &AcceptRate {
        self.draft.rate()
    }

    /// What became of the draft in the last batch, once; `None` if there was none.
    pub(super) fn take_draft_outcome(&mut self) -> Option<DraftOutcome> {
        self.draft.take_outcome()
    }

    /// Notes that the batch was evaluated, and chooses the next token if its logits are there, and
    /// one more after each token of the draft that is accepted.
    ///
    /// # Errors
    /// A grammar that cannot go on.
    pub(super) fn advance(
        &mut self,
        part: &BatchPart,
        model: &LlamaModel,
        context: &LlamaContext<'_>,
    ) -> Result<StepResult, Failure> {
        self.n_evaluated += part.n_tokens;
        let Some(first) = part.output else {
            return Ok(StepResult::Continue);
        };
        self.phase = Phase::Generating;
        self.timings.prompt_end.get_or_insert_with(Instant::now);
        let mut accepted = 0;
        let result = loop {
            let result = self.choose(model, context, first + accepted as i32)?;
            if result != StepResult::Continue || !self.draft.check(accepted, self.tokens.last()) {
                break result;
            }
            accepted += 1;
            self.n_evaluated += 1;
        };
        self.draft.end(accepted);
        Ok(result)
    }

    /// Chooses the next token by the logits at this index of the batch.
    fn choose(
        &mut self,
        model: &LlamaModel,
        context: &LlamaContext<'_>,
        index: i32,
    ) -> Result<StepResult, Failure> {
        if self.n_generated() >= self.max_tokens {
            return Ok(StepResult::Finished(FinishReason::Length));
        }
        let Some(logits) = Logits::new(context.get_logits_ith(index)) else {
            return Ok(StepResult::NotFinite);
        };
        self.suspect = false;
        let chosen = self.sampler.choose(model, &logits)?;
        let Some(token) = chosen.filter(|token| !model.vocab().is_eog(*token)) else {
            return Ok(StepResult::Finished(FinishReason::Stop));
        };
        self.tokens.push(token);
        let stopped = self
            .output
            .push(&model.vocab().token_to_piece(token, false, None));
        Ok(if stopped {
            StepResult::Finished(FinishReason::Stop)
        } else if self.n_generated() >= self.max_tokens || self.output.len() >= self.max_text {
            StepResult::Finished(FinishReason::Length)
        } else if self.tokens.len() > self.context_size {
            StepResult::Finished(FinishReason::Context)
        } else {
            StepResult::Continue
        })
    }

    /// The most tokens that it may still generate.
    pub(super) fn max_left(&self) -> usize {
        self.max_tokens - self.n_generated()
    }

    fn n_generated(&self) -> usize {
        self.tokens.len() - self.n_prompt
    }

    /// The text that has become certain since the last time.
    pub(super) fn piece(&mut self) -> String {
        self.output.piece()
    }

    /// Ends the text: the answer, whose text is what was not given out yet.
    pub(super) fn finish(&mut self, reason: FinishReason) -> Done {
        let stopped = self.output.finish();
        let reason = if stopped { FinishReason::Stop } else { reason };
        let now = Instant::now();
        let start = self.timings.start.unwrap_or(now);
        let prompt_end = self.timings.prompt_end.unwrap_or(start);
        Done {
            text: self.output.last_piece(),
            finish_reason: reason,
            prompt_tokens: self.n_prompt as u32,
            cached_tokens: self.n_cached as u32,
            completion_tokens: self.n_generated() as u32,
            prompt_ms: milliseconds(start, prompt_end),
            completion_ms: milliseconds(prompt_end, now),
            seed: self.seed,
        }
    }
}

fn too_long(n_tokens: usize, context_size: u32) -> Failure {
    let message =
        format!("Prompt of {n_tokens} tokens exceeds the context of {context_size} tokens");
    Failure::new(Code::ContextExceeded, message)
}

/// To the microsecond: more digits would be noise.
fn milliseconds(from: Instant, to: Instant) -> f64 {
    (to - from).as_micros() as f64 / 1000.0
}
