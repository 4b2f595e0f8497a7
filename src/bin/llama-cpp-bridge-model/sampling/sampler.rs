//! Sampling: which token comes next.

use std::rc::Rc;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llama_cpp_2::token::logit_bias::LlamaLogitBias;

use crate::sampling::constraint::Constraint;
use crate::sampling::logits::{ALL, Logits, tied};
use crate::sampling::token_index::TokenIndex;
use crate::text;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::Generate;

/// The largest seed that llama.cpp uses as it is. It takes 4294967295 to mean a random one; here that
/// is a seed like any other, and gives the same text as this one.
const LARGEST_SEED: u32 = u32::MAX - 1;

/// Below this temperature the most likely token is taken, as it would be anyway: llama.cpp divides by
/// the temperature, and below some 1e-37 all logits become infinite.
const MIN_TEMPERATURE: f32 = 1e-30;

/// How many of the most likely tokens are checked against a grammar before all are.
const CHECKED_FIRST: usize = 128;

/// Chooses tokens for one request.
pub struct Sampler {
    chain: LlamaSampler,
    /// How many of the most likely tokens that are not banned decide.
    top: usize,
    /// How many of the most likely tokens the chain must see to choose as if it saw all.
    enough: usize,
    /// Whether tokens are drawn, instead of taking the most likely one.
    draws: bool,
    token_index: Rc<TokenIndex>,
    /// The tokens that the chain chooses from; kept to reuse the memory.
    candidates: LlamaTokenDataArray,
    /// What every token must follow.
    constraint: Option<Constraint>,
    /// With a grammar, the bytes of an incomplete character.
    partial: Vec<u8>,
}

impl Sampler {
    /// The sampling of a request. As in llama-server, penalties apply to the prompt as well.
    ///
    /// # Errors
    /// A grammar or schema that cannot be used.
    pub fn new(
        model: &LlamaModel,
        token_index: &Rc<TokenIndex>,
        request: &Generate,
        context_size: u32,
        prompt: &[LlamaToken],
    ) -> Result<Self, Failure> {
        let constraint = match (&request.grammar, &request.json_schema) {
            (Some(grammar), _) => Some(Constraint::new(model, "grammar", grammar)?),
            (None, Some(grammar)) => Some(Constraint::new(model, "json_schema", grammar)?),
            (None, None) => None,
        };
        let banned = banned(model, request, token_index);
        Ok(Self {
            chain: chain(model, request, context_size, &banned).with_tokens(prompt),
            top: top(request),
            enough: top(request).saturating_add(banned.len()),
            draws: draws(request),
            token_index: Rc::clone(token_index),
            candidates: LlamaTokenDataArray::new(Vec::new(), false),
            constraint,
            partial: Vec::new(),
        })
    }

    /// Chooses the next token by its logits; `None` at the end of the grammar. With a grammar, this
    /// does as llama.cpp's own sampling: a free choice is kept if the grammar allows it, which is
    /// cheaper to find out for one token than for all.
    ///
    /// # Errors
    /// A grammar that allows no token, or that llama.cpp can no longer follow.
    pub fn choose(
        &mut self,
        model: &LlamaModel,
        logits: &Logits<'_>,
    ) -> Result<Option<LlamaToken>, Failure> {
        let mut token = self.choose_free(logits).ok_or_else(nothing_chosen)?;
        if !self.allows(model, token)? {
            let Some(allowed) = self.choose_allowed(model, logits)? else {
                return Ok(None);
            };
            token = allowed;
        }
        self.chain.accept(token);
        if let Some(constraint) = &mut self.constraint {
            self.partial = continues(model, &self.partial, token).unwrap_or_default();
            constraint.accept(token)?;
        }
        Ok(Some(token))
    }

    /// Whether this can be the next token.
    fn allows(&mut self, model: &LlamaModel, token: LlamaToken) -> Result<bool, Failure> {
        match &mut self.constraint {
            None => Ok(true),
            Some(_) if continues(model, &self.partial, token).is_none() => Ok(false),
            Some(constraint) => constraint.allows(token),
        }
    }

    /// Chooses among the tokens that the grammar allows; `None` if it only allows the end.
    fn choose_allowed(
        &mut self,
        model: &LlamaModel,
        logits: &Logits<'_>,
    ) -> Result<Option<LlamaToken>, Failure> {
        if !self.top_allowed(model, logits)? {
            self.all_allowed(model, logits)?;
        }
        let allowed = &mut self.candidates;
        if allowed.data.is_empty() {
            return Err(no_token());
        }
        if allowed.data.iter().all(|d| model.vocab().is_eog(d.id())) {
            return Ok(None);
        }
        self.chain.apply(allowed);
        allowed.selected_token().ok_or_else(no_token).map(Some)
    }

    /// Finds candidates among the most likely tokens. `false` if too few of them are allowed to
    /// choose as if all had been seen.
    fn top_allowed(&mut self, model: &LlamaModel, logits: &Logits<'_>) -> Result<bool, Failure> {
        if self.enough == ALL {
            return Ok(false);
        }
        fill(&mut self.candidates, logits, self.enough.max(CHECKED_FIRST));
        self.retain_allowed(model)?;
        let allowed = &self.candidates.data;
        // Those that end the answer may be banned.
        let sure = allowed.iter().filter(|d| !model.vocab().is_eog(d.id()));
        Ok(sure.count() >= self.top && !(self.draws && tied(allowed)))
    }

    /// Makes all allowed tokens the candidates.
    fn all_allowed(&mut self, model: &LlamaModel, logits: &Logits<'_>) -> Result<(), Failure> {
        let Some(constraint) = &mut self.constraint else {
            return Ok(());
        };
        let initials = self.token_index.initials(model);
        let possible = constraint.candidates(initials, !self.partial.is_empty())?;
        logits.of(possible, &mut self.candidates.data);
        self.retain_allowed(model)?;
        self.candidates
            .data
            .sort_unstable_by_key(LlamaTokenData::id);
        Ok(())
    }

    /// Drops the candidates that are not allowed.
    fn retain_allowed(&mut self, model: &LlamaModel) -> Result<(), Failure> {
        let candidates = &mut self.candidates;
        candidates.selected = None;
        candidates.sorted = false;
        if let Some(constraint) = &mut self.constraint {
            constraint.mask(candidates)?;
        }
        candidates.data.retain(|d| {
            d.logit() != f32::NEG_INFINITY
                && !text::is_textless(model, d.id())
                && continues(model, &self.partial, d.id()).is_some()
        });
        Ok(())
    }

    /// The token that would be chosen without a grammar.
    fn choose_free(&mut self, logits: &Logits<'_>) -> Option<LlamaToken> {
        fill(&mut self.candidates, logits, self.enough);
        // Which of two equally likely ones llama.cpp sorts first depends on all others.
        if self.draws && self.enough != ALL && tied(&self.candidates.data) {
            fill(&mut self.candidates, logits, ALL);
        }
        self.chain.apply(&mut self.candidates);
        self.candidates.selected_token()
    }
}

/// Fills in at least the `count` most likely tokens.
fn fill(candidates: &mut LlamaTokenDataArray, logits: &Logits<'_>, count: usize) {
    logits.top_candidates(count, &mut candidates.data);
    candidates.selected = None;
    candidates.sorted = false;
}

/// The bytes of an incomplete character after this token, if it can follow the `partial` one before;
/// `None` where that is not UTF-8. llama.cpp's grammars take most such bytes for characters, but the
/// answer would have others, and another number of them.
fn continues(model: &LlamaModel, partial: &[u8], token: LlamaToken) -> Option<Vec<u8>> {
    let mut bytes = partial.to_vec();
    bytes.extend(model.vocab().token_to_piece(token, false, None));
    match std::str::from_utf8(&bytes) {
        Ok(_) => Some(Vec::new()),
        Err(error) if error.error_len().is_none() => Some(bytes.split_off(error.valid_up_to())),
        Err(_) => None,
    }
}

fn no_token() -> Failure {
    let message = "No token of the model's vocabulary can continue the grammar";
    Failure::bad_request(message)
}

/// Not expected of a chain of samplers.
fn nothing_chosen() -> Failure {
    Failure::new(Code::Internal, "llama.cpp has chosen no token")
}

/// The tokens that a request never chooses.
fn banned(model: &LlamaModel, request: &Generate, token_index: &TokenIndex) -> Vec<LlamaToken> {
    let mut banned = Vec::new();
    if request.ignore_eos {
        banned.extend_from_slice(token_index.eog(model));
    }
    // A grammar takes a special token for its written text, which is not in the answer.
    if request.grammar.is_some() || request.json_schema.is_some() {
        banned.extend_from_slice(token_index.textless(model));
    }
    banned
}

/// Whether a request draws its tokens, instead of taking the most likely one.
fn draws(request: &Generate) -> bool {
    request.sampling.temperature >= MIN_TEMPERATURE
}

/// How many of the most likely tokens decide what a request chooses: those that top-k keeps.
/// Penalties may put any token before any other.
fn top(request: &Generate) -> usize {
    let sampling = &request.sampling;
    let penalties = sampling.repeat_last_n != 0
        && (sampling.repeat_penalty != 1.0
            || sampling.frequency_penalty != 0.0
            || sampling.presence_penalty != 0.0);
    match usize::try_from(sampling.top_k) {
        _ if penalties => ALL,
        _ if !draws(request) => 1,
        Ok(0) | Err(_) => ALL,
        Ok(top_k) => top_k,
    }
}

/// llama.cpp's default chain, in its order: biases, penalties, top-k, top-p, min-p, temperature;
/// at temperature 0 the most likely token.
fn chain(
    model: &LlamaModel,
    request: &Generate,
    context_size: u32,
    banned: &[LlamaToken],
) -> LlamaSampler {
    let sampling = &request.sampling;
    let mut samplers = Vec::new();
    if !banned.is_empty() {
        let never = |token: &LlamaToken| LlamaLogitBias::new(*token, f32::NEG_INFINITY);
        let biases: Vec<LlamaLogitBias> = banned.iter().map(never).collect();
        samplers.push(LlamaSampler::logit_bias(model.n_vocab(), &biases));
    }
    samplers.push(LlamaSampler::penalties(
        model.n_vocab(),
        match sampling.repeat_last_n {
            -1 => context_size as i32,
            tokens => tokens,
        },
        sampling.repeat_penalty,
        sampling.frequency_penalty,
        sampling.presence_penalty,
    ));
    if draws(request) {
        samplers.extend([
            LlamaSampler::top_k(sampling.top_k),
            LlamaSampler::top_p(sampling.top_p, 0),
            LlamaSampler::min_p(sampling.min_p, 0),
            LlamaSampler::temp(sampling.temperature),
            LlamaSampler::dist(request.seed.min(LARGEST_SEED)),
        ]);
    } else {
        samplers.push(LlamaSampler::greedy());
    }
    LlamaSampler::chain(samplers, true)
}
