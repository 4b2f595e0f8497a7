//! A tiny model that can do nothing but embed, of BERT's kind: attention looks both ways, and
//! words are looked up whole.
//!
//! Its embeddings can be worked out by hand: a token is one-hot, every position adds the mean of
//! all (queries and keys are zero, so attention is even), and the norms do the rest.

use std::path::PathBuf;

use super::gguf::{Gguf, Kind, Tensor, Value};

/// Length of an embedding, and of an attention head.
pub(crate) const EMBEDDING: usize = 32;
/// The most tokens of a text.
pub(crate) const CONTEXT: u32 = 64;
/// The token that begins a text.
pub(crate) const BEGIN: usize = 2;
/// The token that ends it.
pub(crate) const SEPARATOR: usize = 3;
/// What stands before the words.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// The words; llama.cpp writes their beginning with U+2581.
const WORDS: [&str; 4] = ["red", "green", "blue", "sea"];
const EPSILON: f64 = 1e-9;

/// How the embeddings of a text's tokens become one; the numbers are llama.cpp's.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Pooling {
    /// The mean over all tokens.
    Mean = 1,
    /// That of the first token.
    First = 2,
    /// That of the last token.
    Last = 3,
}

/// The token of a word.
pub(crate) fn token_of(word: &str) -> usize {
    let place = WORDS.iter().position(|known| *known == word);
    SPECIAL.len() + place.expect("it is one of the words")
}

/// Writes the model and gives its path back.
pub(crate) fn write(path: PathBuf, pooling: Pooling) -> PathBuf {
    let mut file = Gguf::default();
    describe(&mut file, pooling);
    let wide = EMBEDDING as u64;
    let identity = |name: &str| {
        let mut tensor = Tensor::zeros(name, &[wide, wide], Kind::F32);
        (0..wide).for_each(|at| tensor.set(at, at, 1.0));
        tensor
    };
    let zeros = |name: &str| Tensor::zeros(name, &[wide, wide], Kind::F32);
    file.add(identity("token_embd.weight"));
    file.add(Tensor::zeros(
        "position_embd.weight",
        &[wide, u64::from(CONTEXT)],
        Kind::F32,
    ));
    for norm in [
        "token_embd_norm",
        "blk.0.attn_output_norm",
        "blk.0.layer_output_norm",
    ] {
        file.add(Tensor::filled(format!("{norm}.weight"), wide, 1.0));
        file.add(Tensor::zeros(format!("{norm}.bias"), &[wide], Kind::F32));
    }
    for name in ["attn_q", "attn_k", "ffn_up", "ffn_down"] {
        file.add(zeros(&format!("blk.0.{name}.weight")));
    }
    for name in ["attn_v", "attn_output"] {
        file.add(identity(&format!("blk.0.{name}.weight")));
    }
    file.write(&path);
    path
}

fn describe(file: &mut Gguf, pooling: Pooling) {
    file.set("general.architecture", Value::Text("bert".into()));
    file.set("general.name", Value::Text("tiny bert".into()));
    for (key, number) in [
        ("context_length", CONTEXT),
        ("embedding_length", EMBEDDING as u32),
        ("feed_forward_length", EMBEDDING as u32),
        ("block_count", 1),
        ("attention.head_count", 1),
        ("pooling_type", pooling as u32),
    ] {
        file.set(format!("bert.{key}"), Value::U32(number));
    }
    file.set("bert.attention.causal", Value::Bool(false));
    file.set(
        "bert.attention.layer_norm_epsilon",
        Value::F32(EPSILON as f32),
    );
    let mut tokens: Vec<String> = SPECIAL.map(String::from).into();
    tokens.extend(WORDS.map(|word| format!("\u{2581}{word}")));
    tokens.extend((tokens.len()..EMBEDDING).map(|number| format!("[unused{number}]")));
    // llama.cpp's token types: 3 control, 1 normal.
    let mut types = vec![3; SPECIAL.len()];
    types.resize(tokens.len(), 1);
    file.set("tokenizer.ggml.model", Value::Text("bert".into()));
    file.set("tokenizer.ggml.tokens", Value::Texts(tokens));
    file.set("tokenizer.ggml.token_type", Value::I32s(types));
    for (key, number) in [
        ("token_type_count", 1),
        ("padding_token_id", 0),
        ("unknown_token_id", 1),
        ("bos_token_id", BEGIN as u32),
        ("cls_token_id", BEGIN as u32),
        // Spelt so in the format.
        ("seperator_token_id", SEPARATOR as u32),
        ("mask_token_id", 4),
    ] {
        file.set(format!("tokenizer.ggml.{key}"), Value::U32(number));
    }
}

/// The embedding that these tokens, the first and the last included, must have.
pub(crate) fn embedding(tokens: &[usize], pooling: Pooling) -> Vec<f64> {
    let one_hot = |token: &usize| {
        let mut vector = vec![0.0; EMBEDDING];
        vector[*token] = 1.0;
        normalise(&vector)
    };
    let vectors: Vec<Vec<f64>> = tokens.iter().map(one_hot).collect();
    let middle = mean(&vectors);
    let seen = vectors.iter().map(|vector| {
        let sum: Vec<f64> = vector.iter().zip(&middle).map(|(a, b)| a + b).collect();
        normalise(&normalise(&sum))
    });
    let seen: Vec<Vec<f64>> = seen.collect();
    let pooled = match pooling {
        Pooling::Mean => mean(&seen),
        Pooling::First => seen[0].clone(),
        Pooling::Last => seen[seen.len() - 1].clone(),
    };
    let length = pooled.iter().map(|value| value * value).sum::<f64>().sqrt();
    pooled.iter().map(|value| value / length).collect()
}

fn mean(vectors: &[Vec<f64>]) -> Vec<f64> {
    let column = |at: usize| vectors.iter().map(|vector| vector[at]).sum::<f64>();
    (0..EMBEDDING)
        .map(|at| column(at) / vectors.len() as f64)
        .collect()
}

/// To mean 0 and variance 1, as BERT's norms do.
fn normalise(vector: &[f64]) -> Vec<f64> {
    let count = vector.len() as f64;
    let mean = vector.iter().sum::<f64>() / count;
    let variance = vector.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
    vector
        .iter()
        .map(|v| (v - mean) / (variance + EPSILON).sqrt())
        .collect()
}
