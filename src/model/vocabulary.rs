//! Between text and tokens.

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;

use super::{load, text};
use crate::failure::Failure;

/// A stretch of a prompt.
#[derive(Debug, PartialEq)]
pub(super) struct Segment {
    pub(super) text: String,
    /// Whether the texts of special tokens in it stand for these tokens.
    pub(super) special: bool,
}

/// The tokens of a prompt as a user wrote it, to be continued: behind the token that begins a text,
/// if the model wants one. One that ends a text has no place there.
pub(super) fn prompt(model: &LlamaModel, text: &str) -> Vec<LlamaToken> {
    let mut tokens = beginning(model);
    tokens.extend(tokens_of(model, text, true));
    tokens
}

/// The tokens of a text that is complete, with the special tokens that the model wants around one.
pub(super) fn whole(model: &LlamaModel, text: &str) -> Vec<LlamaToken> {
    model.vocab().tokenize(text.as_bytes(), true, true)
}

/// The tokens of a prompt that a chat template made. A template that writes the BOS itself does
/// not get a second one.
pub(super) fn rendered(model: &LlamaModel, segments: &[Segment]) -> Vec<LlamaToken> {
    let Some((first, rest)) = segments.split_first() else {
        return beginning(model);
    };
    let bos = token_text(model, model.vocab().bos());
    let has_bos = first.special && !bos.is_empty() && first.text.starts_with(&bos);
    let mut tokens = if has_bos {
        Vec::new()
    } else {
        beginning(model)
    };
    tokens.extend(tokens_of(model, &first.text, first.special));
    for segment in rest {
        tokens.extend(continuation(model, segment));
    }
    tokens
}

/// The token that the model wants before every text, if it wants one.
fn beginning(model: &LlamaModel) -> Vec<LlamaToken> {
    let vocabulary = model.vocab();
    let bos = vocabulary.bos();
    let wanted = vocabulary.should_add_bos() && bos.0 >= 0;
    if wanted { vec![bos] } else { Vec::new() }
}

/// The tokens of a segment that follows another one. Some vocabularies put a blank before every
/// text, which here is only a part of one: a newline takes the blank, and both are cut off.
fn continuation(model: &LlamaModel, segment: &Segment) -> Vec<LlamaToken> {
    let tokens = |text: &str| tokens_of(model, text, segment.special);
    let newline = tokens("\n");
    match tokens(&format!("\n{}", segment.text)).strip_prefix(&newline[..]) {
        Some(rest) => rest.to_vec(),
        // A vocabulary that joins newlines to what follows puts no blanks before texts.
        None => tokens(&segment.text),
    }
}

/// Tokens, with none added around them. The texts of special tokens stand for these only where
/// `special` says so.
fn tokens_of(model: &LlamaModel, text: &str, special: bool) -> Vec<LlamaToken> {
    model.vocab().tokenize(text.as_bytes(), false, special)
}

/// The tokens of a text alone.
pub(super) fn tokenize(model: &LlamaModel, text: &str) -> Vec<i32> {
    let tokens = model.vocab().tokenize(text.as_bytes(), false, true);
    tokens.into_iter().map(|token| token.0).collect()
}

/// The text of tokens, special ones written out.
///
/// # Errors
/// A token that is not in the vocabulary.
pub(super) fn detokenize(model: &LlamaModel, ids: &[i32]) -> Result<String, Failure> {
    let vocabulary = model.vocab();
    let last = vocabulary.n_tokens() - 1;
    if let Some(wrong) = ids.iter().find(|id| !(0..=last).contains(*id)) {
        let message = format!("{wrong} is not a token of the model; its tokens are 0 to {last}");
        return Err(Failure::bad_request(message));
    }
    let tokens: Vec<LlamaToken> = ids.iter().map(|id| LlamaToken::new(*id)).collect();
    // By the file's own word: the binding's vocab_type panics on most kinds.
    let kind = load::metadata(model, "tokenizer.ggml.model");
    let bytes = match kind.as_deref() {
        // Only llama.cpp knows which blanks were the tokenizer's own.
        Some("llama" | "bert" | "t5") => vocabulary.detokenize(&tokens, false, true),
        // The others lose no byte, and llama.cpp would tidy up the blanks of some.
        _ => tokens
            .iter()
            .flat_map(|token| vocabulary.token_to_piece(*token, true, None))
            .collect(),
    };
    Ok(text::whole(&bytes))
}

/// How a token is written; nothing for one that the model does not have.
pub(super) fn token_text(model: &LlamaModel, token: LlamaToken) -> String {
    if token.0 < 0 {
        return String::new();
    }
    text::whole(&model.vocab().token_to_piece(token, true, None))
}

/// The texts that would be taken for special tokens.
pub(super) fn special_texts(model: &LlamaModel) -> Vec<String> {
    let texts = model
        .vocab()
        .tokens()
        .filter(|token| is_special(model, *token))
        .map(|token| token_text(model, token));
    texts.filter(|text| !text.is_empty()).collect()
}

/// Whether a token gives no text and does not end an answer either.
pub(super) fn is_silent(model: &LlamaModel, token: LlamaToken) -> bool {
    is_special(model, token) && !model.vocab().is_eog(token)
}

fn is_special(model: &LlamaModel, token: LlamaToken) -> bool {
    let vocabulary = model.vocab();
    vocabulary.is_control(token) || vocabulary.attr(token).contains(LlamaTokenAttr::Unknown)
}
