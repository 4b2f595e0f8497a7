//! Sampling: which token comes next.

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llama_cpp_2::token::logit_bias::LlamaLogitBias;

use super::bound::Bound;
use super::likeliest::{ALL, Logits, tied};
use super::vocabulary;
use crate::failure::{Code, Failure};
use crate::message::Generate;

/// The largest seed that llama.cpp uses as it is. It takes 4294967295 to mean a random one; here
/// that is a seed like any other, and gives the text of this one.
const LARGEST_SEED: u32 = u32::MAX - 1;

/// Temperatures below this one take the likeliest token, as they would anyway: llama.cpp divides
/// by them, and by less than some 1e-37 the logits become infinite, one like the other.
const LEAST_TEMPERATURE: f32 = 1e-30;

/// Chooses tokens for one request.
pub(super) struct Chooser {
    chain: LlamaSampler,
    /// How many of the likeliest tokens the chain must see to choose as if it saw all.
    enough: usize,
    /// Whether tokens are drawn, and not just the likeliest one taken.
    draws: bool,
    /// What the chain works on.
    candidates: LlamaTokenDataArray,
    /// What every token must follow.
    bound: Option<Bound>,
    /// With a grammar, the bytes of a character that is not complete.
    begun: Vec<u8>,
}

impl Chooser {
    /// Sets up the sampling of a request. As in llama-server, the penalties know the prompt.
    ///
    /// # Errors
    /// A grammar or schema that cannot be used.
    pub(super) fn new(
        model: &LlamaModel,
        request: &Generate,
        context_size: u32,
        prompt: &[LlamaToken],
    ) -> Result<Self, Failure> {
        let bound = match (&request.grammar, &request.json_schema) {
            (Some(grammar), _) => Some(Bound::new(model, "grammar", grammar)?),
            (None, Some(grammar)) => Some(Bound::new(model, "json_schema", grammar)?),
            (None, None) => None,
        };
        let banned = banned(model, request);
        Ok(Self {
            chain: chain(model, request, context_size, &banned).with_tokens(prompt),
            enough: enough(request, banned.len()),
            draws: draws(request),
            candidates: LlamaTokenDataArray::new(Vec::new(), false),
            bound,
            begun: Vec::new(),
        })
    }

    /// Chooses the next token by its logits; `None` at the end of the grammar. With a grammar, as
    /// llama.cpp's own sampling does it: a free choice is kept if it follows the grammar, which is
    /// cheaper to find out for one token than for all.
    ///
    /// # Errors
    /// A grammar by which no token can follow, or that llama.cpp cannot follow any further.
    pub(super) fn choose(
        &mut self,
        model: &LlamaModel,
        logits: &Logits<'_>,
    ) -> Result<Option<LlamaToken>, Failure> {
        let free = self.free(logits);
        let Some(bound) = &mut self.bound else {
            let token = free.ok_or_else(nothing_chosen)?;
            self.chain.accept(token);
            return Ok(Some(token));
        };
        let fits = |token: &LlamaToken| goes_on(model, &self.begun, *token).is_some();
        let token = match free.filter(fits) {
            Some(token) if bound.allows(token)? => token,
            _ => {
                let all = &mut self.candidates;
                start(all, logits, ALL);
                bound.restrict(all)?;
                all.data.retain(|d| {
                    d.logit() != f32::NEG_INFINITY
                        && !vocabulary::is_silent(model, d.id())
                        && fits(&d.id())
                });
                if all.data.is_empty() {
                    return Err(no_token());
                }
                if all.data.iter().all(|d| model.vocab().is_eog(d.id())) {
                    return Ok(None);
                }
                self.chain.apply(all);
                all.selected_token().ok_or_else(no_token)?
            }
        };
        self.begun = goes_on(model, &self.begun, token).unwrap_or_default();
        self.chain.accept(token);
        bound.accept(token)?;
        Ok(Some(token))
    }

    /// What would be chosen without a grammar.
    fn free(&mut self, logits: &Logits<'_>) -> Option<LlamaToken> {
        start(&mut self.candidates, logits, self.enough);
        // Which of two that are equally likely llama.cpp sorts first depends on all others.
        if self.draws && self.enough != ALL && tied(&self.candidates.data) {
            start(&mut self.candidates, logits, ALL);
        }
        self.chain.apply(&mut self.candidates);
        self.candidates.selected_token()
    }
}

/// Fills in the likeliest tokens, as many as that or more.
fn start(candidates: &mut LlamaTokenDataArray, logits: &Logits<'_>, count: usize) {
    logits.likeliest(count, &mut candidates.data);
    candidates.selected = None;
    candidates.sorted = false;
}

/// What a token leaves of a character that is not complete, if it can follow the bytes that were
/// left before; `None` where that is no UTF-8. llama.cpp's grammars take most of that for
/// characters, of which the answer would have others, and not as many.
fn goes_on(model: &LlamaModel, begun: &[u8], token: LlamaToken) -> Option<Vec<u8>> {
    let mut bytes = begun.to_vec();
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

/// What a chain of samplers never does.
fn nothing_chosen() -> Failure {
    Failure::new(Code::Internal, "llama.cpp has chosen no token")
}

/// The tokens that a request never chooses.
fn banned(model: &LlamaModel, request: &Generate) -> Vec<LlamaToken> {
    let grammar = request.grammar.is_some() || request.json_schema.is_some();
    if !request.ignore_eos && !grammar {
        return Vec::new();
    }
    let vocabulary = model.vocab();
    let banned = |token: &LlamaToken| {
        // A grammar takes a special token for its written text, which is not in the answer.
        (request.ignore_eos && vocabulary.is_eog(*token))
            || (grammar && vocabulary::is_silent(model, *token))
    };
    vocabulary.tokens().filter(banned).collect()
}

/// Whether a request draws its tokens, and does not take the likeliest.
fn draws(request: &Generate) -> bool {
    request.sampling.temperature >= LEAST_TEMPERATURE
}

/// How many of the likeliest tokens decide what a request chooses, of which so many never are:
/// those that top-k lets through. Penalties may put any token before any other.
fn enough(request: &Generate, banned: usize) -> usize {
    let sampling = &request.sampling;
    let penalties = sampling.repeat_last_n != 0
        && (sampling.repeat_penalty != 1.0
            || sampling.frequency_penalty != 0.0
            || sampling.presence_penalty != 0.0);
    let chosen_from = match usize::try_from(sampling.top_k) {
        _ if penalties => return ALL,
        _ if !draws(request) => 1,
        Ok(0) | Err(_) => return ALL,
        Ok(top_k) => top_k,
    };
    chosen_from + banned
}

/// llama.cpp's default chain, in its order: biases, penalties, top-k, top-p, min-p, temperature;
/// at temperature 0 the likeliest token.
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
