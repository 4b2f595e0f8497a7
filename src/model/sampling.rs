//! Sampling: which token comes next.

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;

use crate::options::Sampling;

/// llama.cpp's default chain, in its order: penalties, top-k, top-p, min-p, temperature; at
/// temperature 0 the likeliest token. As in llama-server, the penalties know the prompt.
pub(super) fn chain(
    model: &LlamaModel,
    sampling: &Sampling,
    seed: u32,
    context_size: u32,
    prompt: &[LlamaToken],
) -> LlamaSampler {
    let look_back = match sampling.repeat_last_n {
        -1 => context_size as i32,
        tokens => tokens,
    };
    let mut samplers = vec![LlamaSampler::penalties(
        model.n_vocab(),
        look_back,
        sampling.repeat_penalty,
        0.0,
        0.0,
    )];
    if sampling.temperature > 0.0 {
        samplers.extend([
            LlamaSampler::top_k(sampling.top_k),
            LlamaSampler::top_p(sampling.top_p, 0),
            LlamaSampler::min_p(sampling.min_p, 0),
            LlamaSampler::temp(sampling.temperature),
            LlamaSampler::dist(seed),
        ]);
    } else {
        samplers.push(LlamaSampler::greedy());
    }
    LlamaSampler::chain(samplers, true).with_tokens(prompt)
}
