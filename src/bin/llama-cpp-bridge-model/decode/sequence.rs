//! One request under way: its prompt, how it chooses tokens, and the text it has so far.

use std::rc::Rc;
use std::time::Instant;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use crate::decode::draft::AcceptRate;
use crate::kv::prefix_cache::Assignment;
use crate::sampling::logits::Logits;
use crate::sampling::sampler::Chooser;
use crate::sampling::token_index::TokenIndex;
use crate::text::detokenizer::Output;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::{Done, FinishReason, Generate};

/// A request under way.
pub(crate) struct Sequence {
    /// The request's own number.
    pub(crate) id: u64,
    /// The sequence of the context that it uses, while it is under way.
    pub(crate) place: i32,
    /// Whether the client wants pieces as they come.
    pub(crate) stream: bool,
    /// Whether what is cached of its prompt need not be evaluated again.
    pub(crate) reuse: bool,
    /// Whether it may be the one whose values are not numbers: it then runs alone.
    pub(crate) suspect: bool,
    /// The request whose prompt begins like this one and is evaluated first, and how many tokens
    /// they share.
    pub(crate) follows: Option<(u64, usize)>,
    /// Behind how many of its tokens a batch has to end, so that a checkpoint can be taken.
    pub(crate) stops: Vec<usize>,
    /// Behind how many of them the last one was taken.
    pub(crate) marked: usize,
    /// The prompt, then every token that was generated.
    tokens: Vec<LlamaToken>,
    prompt_length: usize,
    /// Tokens of the prompt that were in the cache.
    cached: usize,
    /// How many of the tokens the context has evaluated.
    evaluated: usize,
    /// Tokens to generate at the most.
    max_tokens: usize,
    context_size: usize,
    seed: u32,
    chooser: Chooser,
    output: Output,
    /// How its guesses have done so far.
    accept_rate: AcceptRate,
    /// What is held against the tokens that are chosen next.
    foreseen: Vec<LlamaToken>,
    /// How many of these are evaluated in the same batch.
    guessed: usize,
    /// Of the guesses in the last batch those that were right, and the others.
    verdict: Option<(usize, usize)>,
    /// Where in the batch the token is whose logits choose the next one.
    output_index: Option<i32>,
    /// When work on it began.
    start: Option<Instant>,
    /// When the whole prompt was evaluated.
    prompt_end: Option<Instant>,
}

/// How a sequence goes on.
#[derive(PartialEq)]
pub(crate) enum Progress {
    Going,
    Done(FinishReason),
    /// Its logits are not numbers.
    Broken,
}

impl Sequence {
    /// Sets out on a request whose prompt is these tokens.
    ///
    /// # Errors
    /// A prompt that does not fit the context, or of no tokens at all; a grammar that cannot be
    /// used.
    pub(crate) fn new(
        id: u64,
        model: &LlamaModel,
        lexicon: &Rc<TokenIndex>,
        context_size: u32,
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
            place: 0,
            stream: request.stream,
            reuse: request.cache_prompt,
            suspect: false,
            follows: None,
            stops: Vec::new(),
            marked: 0,
            prompt_length: tokens.len(),
            cached: 0,
            evaluated: 0,
            max_tokens: usize::try_from(request.max_tokens).unwrap_or(usize::MAX),
            context_size: context_size as usize,
            seed: request.seed,
            chooser: Chooser::new(model, lexicon, request, context_size, &tokens)?,
            tokens,
            output: Output::new(request.stop.clone()),
            accept_rate: AcceptRate::default(),
            foreseen: Vec::new(),
            guessed: 0,
            verdict: None,
            output_index: None,
            start: None,
            prompt_end: None,
        })
    }

    /// The prompt and what was generated.
    pub(crate) fn tokens(&self) -> &[LlamaToken] {
        &self.tokens
    }

    /// How many of the tokens the context has evaluated.
    pub(crate) fn evaluated(&self) -> usize {
        self.evaluated
    }

    /// How many are still to be evaluated: of one that generates, the last one.
    pub(crate) fn pending(&self) -> usize {
        self.tokens.len() - self.evaluated
    }

    /// How many of those the next batch may take.
    pub(crate) fn reach(&self) -> usize {
        let stops = self.stops.iter().filter(|stop| **stop > self.evaluated);
        let next = stops.min().unwrap_or(&usize::MAX);
        self.pending().min(next - self.evaluated)
    }

    /// Starts, or starts again, in a place that holds its first tokens.
    pub(crate) fn sit(&mut self, seat: Assignment) {
        self.place = seat.place;
        self.stops = seat.stops;
        if self.start.is_none() {
            self.start = Some(Instant::now());
        }
        self.skip(seat.known);
    }

    /// Need not evaluate its first tokens: the cache has them.
    pub(crate) fn skip(&mut self, known: usize) {
        self.evaluated = known;
        self.marked = known;
        if self.prompt_end.is_none() {
            self.cached = known;
        }
    }

    /// Has moved, with this many of its evaluated tokens.
    pub(crate) fn moved(&mut self, evaluated: usize) {
        self.evaluated = evaluated;
        self.marked = self.marked.min(evaluated);
    }

    /// Leaves its place. The tokens that it generated stay, to be evaluated with the prompt when
    /// it starts again: so its text goes on as if nothing had happened.
    pub(crate) fn rise(&mut self) {
        self.evaluated = 0;
        self.output_index = None;
        self.guess(&[], 0);
        self.follows = None;
    }

    /// Adds its next `count` tokens to the batch; returns how many that were.
    pub(crate) fn fill(&mut self, batch: &mut LlamaBatch<'_>, count: usize) -> usize {
        let end = self.tokens.len().min(self.evaluated + count);
        let before = batch.n_tokens();
        for position in self.evaluated..end {
            let last = position + 1 == self.tokens.len();
            let token = self.tokens[position];
            let added = batch.add(token, position as i32, &[self.place], last);
            if added.is_err() {
                break;
            }
        }
        let added = (batch.n_tokens() - before) as usize;
        let complete = self.evaluated + added == self.tokens.len() && added > 0;
        self.output_index = complete.then(|| batch.n_tokens() - 1);
        self.fill_guesses(batch, complete);
        added
    }

    fn fill_guesses(&mut self, batch: &mut LlamaBatch<'_>, complete: bool) {
        let guesses = if complete { self.guessed } else { 0 };
        self.guessed = 0;
        for token in &self.foreseen[..guesses] {
            let position = (self.tokens.len() + self.guessed) as i32;
            if batch.add(*token, position, &[self.place], true).is_err() {
                break;
            }
            self.guessed += 1;
        }
    }

    /// Foresees its next tokens, the first `guessed` of which are to be in the next batch.
    pub(crate) fn guess(&mut self, foreseen: &[LlamaToken], guessed: usize) {
        self.foreseen.clear();
        self.foreseen.extend_from_slice(foreseen);
        self.guessed = guessed;
    }

    /// How many tokens it may guess now: of those that it may still generate and that fit the
    /// context all but the one that is chosen anyway; none of a prompt.
    pub(crate) fn guesses_at_most(&self) -> usize {
        if self.pending() != 1 || self.prompt_end.is_none() {
            return 0;
        }
        let room = self.context_size - self.tokens.len();
        self.left().saturating_sub(1).min(room)
    }

    /// How its guesses have done so far.
    pub(crate) fn accept_rate(&self) -> &AcceptRate {
        &self.accept_rate
    }

    /// Of the guesses in the last batch how many were right, and how many were not; `None` if
    /// there were none.
    pub(crate) fn verdict(&mut self) -> Option<(usize, usize)> {
        self.verdict.take()
    }

    /// Notes that the batch was evaluated, and chooses the next token if its logits are there, and
    /// one more behind each guess that was right.
    ///
    /// # Errors
    /// A grammar that cannot go on.
    pub(crate) fn advance(
        &mut self,
        added: usize,
        model: &LlamaModel,
        context: &LlamaContext<'_>,
    ) -> Result<Progress, Failure> {
        self.evaluated += added;
        let Some(first) = self.output_index.take() else {
            return Ok(Progress::Going);
        };
        self.prompt_end.get_or_insert_with(Instant::now);
        let mut right = 0;
        let progress = loop {
            let progress = self.choose(model, context, first + right as i32)?;
            if progress != Progress::Going {
                break progress;
            }
            let hit = self
                .foreseen
                .get(right)
                .map(|g| Some(g) == self.tokens.last());
            if let Some(hit) = hit {
                self.accept_rate.note(hit);
            }
            if right == self.guessed || hit != Some(true) {
                break progress;
            }
            right += 1;
            self.evaluated += 1;
        };
        self.verdict = (self.guessed > 0).then(|| (right, self.guessed - right));
        self.foreseen.clear();
        self.guessed = 0;
        Ok(progress)
    }

    /// Chooses the next token by the logits at this place of the batch.
    fn choose(
        &mut self,
        model: &LlamaModel,
        context: &LlamaContext<'_>,
        index: i32,
    ) -> Result<Progress, Failure> {
        if self.generated() >= self.max_tokens {
            return Ok(Progress::Done(FinishReason::Length));
        }
        let Some(logits) = Logits::new(context.get_logits_ith(index)) else {
            return Ok(Progress::Broken);
        };
        self.suspect = false;
        let chosen = self.chooser.choose(model, &logits)?;
        let Some(token) = chosen.filter(|token| !model.vocab().is_eog(*token)) else {
            return Ok(Progress::Done(FinishReason::Stop));
        };
        self.tokens.push(token);
        let stopped = self
            .output
            .push(&model.vocab().token_to_piece(token, false, None));
        Ok(if stopped {
            Progress::Done(FinishReason::Stop)
        } else if self.generated() >= self.max_tokens {
            Progress::Done(FinishReason::Length)
        } else if self.tokens.len() > self.context_size {
            Progress::Done(FinishReason::Context)
        } else {
            Progress::Going
        })
    }

    /// Tokens that it may still generate.
    pub(crate) fn left(&self) -> usize {
        self.max_tokens - self.generated()
    }

    fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_length
    }

    /// The text that has become certain since the last time.
    pub(crate) fn piece(&mut self) -> String {
        self.output.piece()
    }

    /// Ends the text: the rest that was held back, and the whole answer.
    pub(crate) fn finish(&mut self, reason: FinishReason) -> (String, Done) {
        let stopped = self.output.finish();
        let reason = if stopped { FinishReason::Stop } else { reason };
        let rest = self.output.last_piece();
        let now = Instant::now();
        let start = self.start.unwrap_or(now);
        let prompt_end = self.prompt_end.unwrap_or(start);
        let done = Done {
            text: self.output.take(),
            finish_reason: reason,
            prompt_tokens: self.prompt_length as u32,
            cached_tokens: self.cached as u32,
            completion_tokens: self.generated() as u32,
            prompt_ms: milliseconds(start, prompt_end),
            completion_ms: milliseconds(prompt_end, now),
            seed: self.seed,
        };
        (rest, done)
    }
}

/// The failure of a prompt that does not fit.
pub(crate) fn too_long(tokens: usize, context_size: u32) -> Failure {
    let message = format!("Prompt of {tokens} tokens exceeds the context of {context_size} tokens");
    Failure::new(Code::ContextExceeded, message)
}

/// To the microsecond: more digits would be noise.
fn milliseconds(from: Instant, to: Instant) -> f64 {
    (to - from).as_micros() as f64 / 1000.0
}
