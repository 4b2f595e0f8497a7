//! Messages of the wire, made of the bytes of an input: of all kinds, with values at their limits.

use std::iter;

use llama_cpp_bridge::shared::build::Build;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::{
    Answer, Done, Embedding, FinishReason, FromModel, Generate, Part, Ready, State, ToModel, Turn,
    Work,
};
use llama_cpp_bridge::shared::parts::{TEXT, TOKENS, VALUES};
use llama_cpp_bridge::shared::settings::{
    FlashAttention, KvType, ModelParams, Sampling, StateFiles,
};

use super::Draw;

/// Characters of texts.
const CHARACTERS: [char; 13] = [
    'a',
    '"',
    '\\',
    '\u{1}',
    '\n',
    ' ',
    '\u{7f}',
    '\u{e9}',
    '\u{20ac}',
    '\u{2028}',
    '\u{fffd}',
    '\u{fdd0}',
    '\u{1f600}',
];

/// A message of the bridge.
pub(super) fn to_model(draw: &mut Draw<'_>) -> ToModel {
    let id = draw.number();
    let work = match draw.below(9) {
        0 => return ToModel::Hello(build(draw)),
        1 => return ToModel::Load(Box::new(params(draw))),
        2 => return ToModel::Cancel(id),
        3 => Work::Generate(Box::new(generate(draw))),
        4 => Work::Embed(text(draw)),
        5 => Work::Tokenize(text(draw)),
        6 => Work::Detokenize(tokens(draw)),
        7 => Work::Save(text(draw)),
        _ => Work::Restore(text(draw)),
    };
    ToModel::Work(id, work)
}

/// A message of the model process.
pub(super) fn from_model(draw: &mut Draw<'_>) -> FromModel {
    let id = draw.number();
    match draw.below(10) {
        0 => FromModel::Hello(build(draw)),
        1 => FromModel::Ready(Box::new(Ready {
            description: text(draw),
            architecture: text(draw),
            parameters: draw.number(),
            size_bytes: draw.number(),
            context_size: draw.number() as u32,
            training_context_size: draw.number() as u32,
            embedding_size: draw.number() as u32,
            vocabulary_size: draw.number() as u32,
            chat_template: draw.below(2) > 0,
            sandbox_lacks: vec![text(draw)],
        })),
        2 => FromModel::Refused(text(draw)),
        3 => FromModel::Notice(text(draw)),
        4 => FromModel::Busy(draw.number()),
        5 => FromModel::Part(id, Part::Text(text(draw))),
        6 => FromModel::Part(id, Part::Tokens(tokens(draw))),
        7 => FromModel::Part(id, Part::Values(values(draw))),
        8 => FromModel::Answer(id, Err(Failure::new(draw.pick(&Code::ALL), text(draw)))),
        _ => FromModel::Answer(id, Ok(answer(draw))),
    }
}

/// An answer, which need not fit a message.
pub(super) fn answer(draw: &mut Draw<'_>) -> Answer {
    match draw.below(5) {
        0 => Answer::Generated(Box::new(Done {
            text: long_text(draw),
            finish_reason: draw.pick(&[
                FinishReason::Stop,
                FinishReason::Length,
                FinishReason::Context,
            ]),
            prompt_tokens: draw.number() as u32,
            cached_tokens: draw.number() as u32,
            completion_tokens: draw.number() as u32,
            prompt_ms: time(draw),
            completion_ms: time(draw),
            seed: draw.number() as u32,
        })),
        1 => Answer::Embedding(Embedding {
            values: values(draw),
            prompt_tokens: draw.number() as u32,
        }),
        2 => Answer::Tokens(tokens(draw)),
        3 => Answer::Text(long_text(draw)),
        _ => Answer::State(State {
            tokens: draw.number() as u32,
            bytes: draw.number(),
        }),
    }
}

fn build(draw: &mut Draw<'_>) -> Build {
    Build {
        version: text(draw),
        build: text(draw),
    }
}

fn params(draw: &mut Draw<'_>) -> ModelParams {
    let types = [KvType::F32, KvType::Q8_0, KvType::Iq4Nl, KvType::Q5_1];
    ModelParams {
        path: text(draw),
        file: text(draw),
        size: draw.number(),
        ctx_size: optional(draw, |draw| draw.number() as u32),
        batch_size: draw.number() as u32,
        threads: optional(draw, |draw| draw.number() as u32),
        flash_attn: draw.pick(&[FlashAttention::On, FlashAttention::Off]),
        cache_type_k: draw.pick(&types),
        cache_type_v: draw.pick(&types),
        chat_template: optional(draw, text),
        state_dir: optional(draw, text),
        states: optional(draw, |draw| StateFiles {
            directory: text(draw),
            scratch: text(draw),
            model_hash: draw.number(),
        }),
        sandbox: draw.below(2) > 0,
        ..ModelParams::default()
    }
}

fn generate(draw: &mut Draw<'_>) -> Generate {
    let turn = |draw: &mut Draw<'_>| Turn {
        role: text(draw),
        content: text(draw),
    };
    Generate {
        prompt: optional(draw, text),
        messages: optional(draw, |draw| {
            let count = draw.below(4);
            (0..count).map(|_| turn(draw)).collect()
        }),
        max_tokens: draw.number() as i32,
        sampling: Sampling {
            temperature: single(draw),
            top_k: draw.number() as i32,
            min_p: single(draw),
            ..Sampling::default()
        },
        seed: draw.number() as u32,
        stop: {
            let count = draw.below(4);
            (0..count).map(|_| text(draw)).collect()
        },
        grammar: optional(draw, text),
        json_schema: optional(draw, text),
        stream: draw.below(2) > 0,
        ignore_eos: draw.below(2) > 0,
        cache_prompt: draw.below(2) > 0,
    }
}

fn optional<T>(draw: &mut Draw<'_>, value: impl FnOnce(&mut Draw<'_>) -> T) -> Option<T> {
    (draw.below(2) > 0).then(|| value(draw))
}

/// A text of a few characters that JSON, UTF-8 and lines make a difference of.
fn text(draw: &mut Draw<'_>) -> String {
    let count = draw.below(8);
    (0..count).map(|_| draw.pick(&CHARACTERS)).collect()
}

/// A text that may just fit a message, or not.
fn long_text(draw: &mut Draw<'_>) -> String {
    let start = text(draw);
    let character = draw.pick(&CHARACTERS);
    start + &character.to_string().repeat(count(draw, TEXT))
}

/// Mostly a few; sometimes what just fits a message, or does not.
fn count(draw: &mut Draw<'_>, most: usize) -> usize {
    match draw.byte() {
        few @ 0..=239 => usize::from(few) % 8,
        240..=243 => most - 1,
        244..=247 => most,
        248..=251 => most + 1,
        _ => 2 * most + 1,
    }
}

fn tokens(draw: &mut Draw<'_>) -> Vec<i32> {
    let (token, count) = (draw.number() as i32, count(draw, TOKENS));
    let first = draw.number() as i32;
    iter::once(first)
        .chain(iter::repeat_n(token, count))
        .collect()
}

fn values(draw: &mut Draw<'_>) -> Vec<f64> {
    let (value, count) = (short(draw), count(draw, VALUES));
    let first = short(draw);
    iter::once(first)
        .chain(iter::repeat_n(value, count))
        .collect()
}

/// A number as the model process puts it into an embedding: at most 1, with the digits of an f32.
fn short(draw: &mut Draw<'_>) -> f64 {
    let any = single(draw);
    let digits = if any.abs() > 1.0 { 1.0 / any } else { any }.to_string();
    digits.parse().expect("that is a number")
}

/// A time: miniserde reads some numbers off by a bit, but none in eighths of milliseconds.
fn time(draw: &mut Draw<'_>) -> f64 {
    (draw.number() % (1 << 40)) as f64 / 8.0
}

fn single(draw: &mut Draw<'_>) -> f32 {
    let any = f32::from_bits(draw.number() as u32);
    if any.is_finite() { any } else { f32::MIN }
}
