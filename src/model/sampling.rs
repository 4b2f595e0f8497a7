//! Sampling: which token comes next.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::logit_bias::LlamaLogitBias;

use super::bound::Bound;
use super::vocabulary;
use crate::failure::Failure;
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
        Ok(Self {
            chain: chain(model, request, context_size).with_tokens(prompt),
            bound,
            begun: Vec::new(),
        })
    }

    /// Chooses the next token by the logits at this place of the batch; `None` at the end of the
    /// grammar. With a grammar, as llama.cpp's own sampling does it: a free choice is kept if it
    /// follows the grammar, which is cheaper to find out for one token than for all.
    ///
    /// # Errors
    /// A grammar by which no token can follow, or that llama.cpp cannot follow any further.
    pub(super) fn choose(
        &mut self,
        model: &LlamaModel,
        context: &LlamaContext<'_>,
        index: i32,
    ) -> Result<Option<LlamaToken>, Failure> {
        let Some(bound) = &mut self.bound else {
            return Ok(Some(self.chain.sample(context, index)));
        };
        let mut free = context.token_data_array_ith(index);
        self.chain.apply(&mut free);
        let fits = |token: &LlamaToken| goes_on(model, &self.begun, *token).is_some();
        let token = match free.selected_token().filter(fits) {
            Some(token) if bound.allows(token)? => token,
            _ => {
                let mut all = context.token_data_array_ith(index);
                bound.restrict(&mut all)?;
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
                self.chain.apply(&mut all);
                all.selected_token().ok_or_else(no_token)?
            }
        };
        self.begun = goes_on(model, &self.begun, token).unwrap_or_default();
        self.chain.accept(token);
        bound.accept(token)?;
        Ok(Some(token))
    }
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

/// llama.cpp's default chain, in its order: biases, penalties, top-k, top-p, min-p, temperature;
/// at temperature 0 the likeliest token.
fn chain(model: &LlamaModel, request: &Generate, context_size: u32) -> LlamaSampler {
    let sampling = &request.sampling;
    let mut samplers = Vec::new();
    let grammar = request.grammar.is_some() || request.json_schema.is_some();
    if request.ignore_eos || grammar {
        let vocabulary = model.vocab();
        let banned = |token: &LlamaToken| {
            // A grammar takes a special token for its written text, which is not in the answer.
            (request.ignore_eos && vocabulary.is_eog(*token))
                || (grammar && vocabulary::is_silent(model, *token))
        };
        let biases: Vec<LlamaLogitBias> = vocabulary
            .tokens()
            .filter(banned)
            .map(|token| LlamaLogitBias::new(token, f32::NEG_INFINITY))
            .collect();
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
    if sampling.temperature >= LEAST_TEMPERATURE {
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
