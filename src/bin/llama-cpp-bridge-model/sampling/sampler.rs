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
use crate::text::tokenizer;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::Generate;

/// The largest seed that llama.cpp uses as it is. It takes 4294967295 to mean a random one; here
/// that is a seed like any other, and gives the text of this one.
const LARGEST_SEED: u32 = u32::MAX - 1;

/// Temperatures below this one take the likeliest token, as they would anyway: llama.cpp divides
/// by them, and by less than some 1e-37 the logits become infinite, one like the other.
const LEAST_TEMPERATURE: f32 = 1e-30;

/// The likeliest tokens among which those that can follow a grammar are looked for first.
const AT_FIRST: usize = 128;

/// Chooses tokens for one request.
pub(crate) struct Sampler {
    chain: LlamaSampler,
    /// How many of the likeliest tokens that are not banned decide.
    top: usize,
    /// How many of the likeliest tokens the chain must see to choose as if it saw all.
    enough: usize,
    /// Whether tokens are drawn, and not just the likeliest one taken.
    draws: bool,
    lexicon: Rc<TokenIndex>,
    /// What the chain works on.
    candidates: LlamaTokenDataArray,
    /// What every token must follow.
    bound: Option<Constraint>,
    /// With a grammar, the bytes of a character that is not complete.
    begun: Vec<u8>,
}

impl Sampler {
    /// Sets up the sampling of a request. As in llama-server, the penalties know the prompt.
    ///
    /// # Errors
    /// A grammar or schema that cannot be used.
    pub(crate) fn new(
        model: &LlamaModel,
        lexicon: &Rc<TokenIndex>,
        request: &Generate,
        context_size: u32,
        prompt: &[LlamaToken],
    ) -> Result<Self, Failure> {
        let bound = match (&request.grammar, &request.json_schema) {
            (Some(grammar), _) => Some(Constraint::new(model, "grammar", grammar)?),
            (None, Some(grammar)) => Some(Constraint::new(model, "json_schema", grammar)?),
            (None, None) => None,
        };
        let banned = banned(model, request, lexicon);
        Ok(Self {
            chain: chain(model, request, context_size, &banned).with_tokens(prompt),
            top: top(request),
            enough: top(request).saturating_add(banned.len()),
            draws: draws(request),
            lexicon: Rc::clone(lexicon),
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
    pub(crate) fn choose(
        &mut self,
        model: &LlamaModel,
        logits: &Logits<'_>,
    ) -> Result<Option<LlamaToken>, Failure> {
        let mut token = self.free(logits).ok_or_else(nothing_chosen)?;
        if !self.allows(model, token)? {
            let Some(allowed) = self.among_allowed(model, logits)? else {
                return Ok(None);
            };
            token = allowed;
        }
        self.chain.accept(token);
        if let Some(bound) = &mut self.bound {
            self.begun = goes_on(model, &self.begun, token).unwrap_or_default();
            bound.accept(token)?;
        }
        Ok(Some(token))
    }

    /// Whether this can be the next token.
    fn allows(&mut self, model: &LlamaModel, token: LlamaToken) -> Result<bool, Failure> {
        match &mut self.bound {
            None => Ok(true),
            Some(_) if goes_on(model, &self.begun, token).is_none() => Ok(false),
            Some(bound) => bound.allows(token),
        }
    }

    /// Chooses among the tokens that can follow; `None` if none can but the end.
    fn among_allowed(
        &mut self,
        model: &LlamaModel,
        logits: &Logits<'_>,
    ) -> Result<Option<LlamaToken>, Failure> {
        if !self.likeliest_allowed(model, logits)? {
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

    /// Looks for candidates among the likeliest tokens. `false` if those that can follow are too
    /// few of them to choose as if all were seen.
    fn likeliest_allowed(
        &mut self,
        model: &LlamaModel,
        logits: &Logits<'_>,
    ) -> Result<bool, Failure> {
        if self.enough == ALL {
            return Ok(false);
        }
        start(&mut self.candidates, logits, self.enough.max(AT_FIRST));
        self.retain_allowed(model)?;
        let allowed = &self.candidates.data;
        // Those that end the answer may be banned.
        let sure = allowed.iter().filter(|d| !model.vocab().is_eog(d.id()));
        Ok(sure.count() >= self.top && !(self.draws && tied(allowed)))
    }

    /// Makes all tokens that can follow the candidates.
    fn all_allowed(&mut self, model: &LlamaModel, logits: &Logits<'_>) -> Result<(), Failure> {
        let Some(bound) = &mut self.bound else {
            return Ok(());
        };
        let initials = self.lexicon.initials(model);
        let within = bound.within(initials, !self.begun.is_empty())?;
        logits.of(within, &mut self.candidates.data);
        self.retain_allowed(model)?;
        self.candidates
            .data
            .sort_unstable_by_key(LlamaTokenData::id);
        Ok(())
    }

    /// Leaves only those candidates that can follow.
    fn retain_allowed(&mut self, model: &LlamaModel) -> Result<(), Failure> {
        let candidates = &mut self.candidates;
        candidates.selected = None;
        candidates.sorted = false;
        if let Some(bound) = &mut self.bound {
            bound.restrict(candidates)?;
        }
        candidates.data.retain(|d| {
            d.logit() != f32::NEG_INFINITY
                && !tokenizer::is_silent(model, d.id())
                && goes_on(model, &self.begun, d.id()).is_some()
        });
        Ok(())
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
fn banned(model: &LlamaModel, request: &Generate, lexicon: &TokenIndex) -> Vec<LlamaToken> {
    let mut banned = Vec::new();
    if request.ignore_eos {
        banned.extend_from_slice(lexicon.ends(model));
    }
    // A grammar takes a special token for its written text, which is not in the answer.
    if request.grammar.is_some() || request.json_schema.is_some() {
        banned.extend_from_slice(lexicon.silent(model));
    }
    banned
}

/// Whether a request draws its tokens, and does not take the likeliest.
fn draws(request: &Generate) -> bool {
    request.sampling.temperature >= LEAST_TEMPERATURE
}

/// How many of the likeliest tokens decide what a request chooses: those that top-k lets through.
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
