//! Text to tokens, and tokens to text.

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;

use crate::load;
use crate::text::detokenizer;
use llama_cpp_bridge::chat::segments::Segment;
use llama_cpp_bridge::chat::text_set::{SLICE, TextSet};
use llama_cpp_bridge::shared::failure::{Code, Failure};

/// The tokens of a text of at most this many bytes are always counted, so that a client learns by how
/// many it is too long: that takes a fraction of a second.
const COUNTED: usize = 128 * 1024;

/// The tokens of a prompt as a user wrote it, to be continued: after the token that begins a text, if
/// the model wants one, and without one that ends it.
pub fn tokenize_prompt(model: &LlamaModel, text: &str) -> Vec<LlamaToken> {
    let mut tokens = beginning(model);
    tokens.extend(tokens_of(model, text, true));
    tokens
}

/// The tokens of a complete text, with the special tokens that the model wants around one.
pub fn tokenize_whole(model: &LlamaModel, text: &str) -> Vec<LlamaToken> {
    model.vocab().tokenize(text.as_bytes(), true, true)
}

/// The tokens of a rendered conversation. A template that writes the BOS itself does not get a second
/// one.
pub fn tokenize_segments(model: &LlamaModel, segments: &[Segment]) -> Vec<LlamaToken> {
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
    let newline = tokens_of(model, "\n", true);
    for segment in rest {
        tokens.extend(continuation(model, segment, &newline));
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

/// The tokens of a segment that follows another one. Some vocabularies put a blank before every text,
/// but this is only a part of one: a newline takes the blank, and both are removed.
fn continuation(model: &LlamaModel, segment: &Segment, newline: &[LlamaToken]) -> Vec<LlamaToken> {
    let tokens = |text: &str| tokens_of(model, text, segment.special);
    match tokens(&format!("\n{}", segment.text)).strip_prefix(newline) {
        Some(rest) => rest.to_vec(),
        // A vocabulary that joins newlines to what follows puts no blanks before texts.
        None => tokens(&segment.text),
    }
}

/// The tokens of a text alone.
pub fn tokenize(model: &LlamaModel, text: &str) -> Vec<i32> {
    let tokens = tokens_of(model, text, true);
    tokens.into_iter().map(|token| token.0).collect()
}

/// Tokens, with none added around them. The texts of special tokens become these only if `special`
/// says so; those that llama.cpp calls user-defined always do.
fn tokens_of(model: &LlamaModel, text: &str, special: bool) -> Vec<LlamaToken> {
    let tokens = sliced(model, text, special);
    let vocabulary = model.vocab();
    if special || !tokens.iter().any(|token| vocabulary.is_control(*token)) {
        return tokens;
    }
    let apart = |token: LlamaToken| match vocabulary.is_control(token) {
        true => letters(model, &token_text(model, token)),
        false => vec![token],
    };
    tokens.into_iter().flat_map(apart).collect()
}

/// The tokens of each character alone: llama.cpp joins the parts of a text to any token with that
/// text, even a control token, if all texts in between are tokens as well.
fn letters(model: &LlamaModel, text: &str) -> Vec<LlamaToken> {
    let tokens = |text: &str| model.vocab().tokenize(text.as_bytes(), false, false);
    let newline = tokens("\n");
    let alone = |letter: char| match tokens(&format!("\n{letter}")).strip_prefix(&newline[..]) {
        Some(rest) => rest.to_vec(),
        None => tokens(&letter.to_string()),
    };
    text.chars().flat_map(alone).collect()
}

/// The tokens of a text, in slices where that saves time.
fn sliced(model: &LlamaModel, text: &str, special: bool) -> Vec<LlamaToken> {
    let vocabulary = model.vocab();
    let tokens = |text: &str| vocabulary.tokenize(text.as_bytes(), false, special);
    if text.len() <= SLICE {
        return tokens(text);
    }
    // llama.cpp's time grows with the square of the number of such texts in its input.
    let cut_out = |token: &LlamaToken| {
        let defined = vocabulary
            .attr(*token)
            .contains(LlamaTokenAttr::UserDefined);
        defined || (special && is_special(model, *token))
    };
    let cut_out: Vec<LlamaToken> = vocabulary.tokens().filter(cut_out).collect();
    let takes_blanks =
        |token: &LlamaToken| vocabulary.attr(*token).contains(LlamaTokenAttr::LStrip);
    if cut_out.iter().any(takes_blanks) {
        return tokens(text);
    }
    let texts = cut_out.iter().map(|token| token_text(model, *token));
    let texts = TextSet::new(texts.collect());
    texts.slices(text).into_iter().flat_map(tokens).collect()
}

/// Checks that long texts can fit the context together, before time is spent on their tokens. `kind`
/// is what the message calls them.
///
/// # Errors
/// `context_exceeded` if they cannot, whatever their tokens are.
pub fn check_size<'t>(
    model: &LlamaModel,
    texts: impl Iterator<Item = &'t str> + Clone,
    kind: &str,
    context_size: u32,
) -> Result<(), Failure> {
    let bytes: usize = texts.clone().map(str::len).sum();
    // No token is shorter than a byte.
    if bytes <= COUNTED.max(context_size as usize) {
        return Ok(());
    }
    let Some(longest) = Longest::of(model) else {
        return Ok(());
    };
    let bytes: usize = texts.map(|text| longest.bytes_that_count(text)).sum();
    let tokens = bytes.div_ceil(longest.bytes);
    if tokens <= context_size as usize {
        return Ok(());
    }
    let message =
        format!("{kind} of at least {tokens} tokens exceeds the context of {context_size} tokens");
    Err(Failure::new(Code::ContextExceeded, message))
}

/// The longest text that a token can have.
struct Longest {
    /// Its bytes, without those that do not count.
    bytes: usize,
    /// Whether some tokens include all blanks beside them: then blanks do not count.
    blanks: bool,
}

impl Longest {
    /// Of a vocabulary. `None` if a single token can represent any number of characters that the
    /// vocabulary does not have.
    fn of(model: &LlamaModel) -> Option<Self> {
        let kind = load::metadata(model, "tokenizer.ggml.model");
        if !matches!(kind.as_deref(), Some("llama" | "gpt2")) {
            return None;
        }
        let vocabulary = model.vocab();
        let takes_blanks = |token: LlamaToken| {
            let attributes = vocabulary.attr(token);
            attributes.intersects(LlamaTokenAttr::LStrip | LlamaTokenAttr::RStrip)
        };
        let blanks = vocabulary.tokens().any(takes_blanks);
        let lengths = vocabulary.tokens().map(|token| {
            let bytes = vocabulary.token_to_piece(token, true, None);
            let counts = |byte: &&u8| !(blanks && is_blank(char::from(**byte)));
            bytes.iter().filter(counts).count()
        });
        let bytes = lengths.max().filter(|longest| *longest > 0)?;
        Some(Self { bytes, blanks })
    }

    /// The bytes of a text that tokens have to represent. U+2581 does not count: some vocabularies
    /// write it for a space, which is shorter.
    fn bytes_that_count(&self, text: &str) -> usize {
        let counts = |c: &char| *c != '\u{2581}' && !(self.blanks && is_blank(*c));
        text.chars().filter(counts).map(char::len_utf8).sum()
    }
}

/// Whether llama.cpp considers this a blank beside a special token.
fn is_blank(character: char) -> bool {
    matches!(character, '\t'..='\r' | ' ')
}

/// The text of tokens, special ones written out.
///
/// # Errors
/// A token that is not in the vocabulary.
pub fn detokenize(model: &LlamaModel, ids: &[i32]) -> Result<String, Failure> {
    let vocabulary = model.vocab();
    let last = vocabulary.n_tokens() - 1;
    if let Some(wrong) = ids.iter().find(|id| !(0..=last).contains(*id)) {
        let message = format!("{wrong} is not a token of the model; its tokens are 0 to {last}");
        return Err(Failure::bad_request(message));
    }
    let tokens: Vec<LlamaToken> = ids.iter().map(|id| LlamaToken::new(*id)).collect();
    // From the metadata: the binding's vocab_type panics on most kinds.
    let kind = load::metadata(model, "tokenizer.ggml.model");
    let bytes = match kind.as_deref() {
        // Only llama.cpp knows which blanks were the tokenizer's own.
        Some("llama" | "bert" | "t5") => vocabulary.detokenize(&tokens, false, true),
        // The others lose no byte, and llama.cpp would remove some of their blanks.
        _ => tokens
            .iter()
            .flat_map(|token| vocabulary.token_to_piece(*token, true, None))
            .collect(),
    };
    Ok(detokenizer::lossy(&bytes))
}

/// The text of a token; empty for one that the model does not have.
pub fn token_text(model: &LlamaModel, token: LlamaToken) -> String {
    if token.0 < 0 {
        return String::new();
    }
    detokenizer::lossy(&model.vocab().token_to_piece(token, true, None))
}

/// The texts that would become special tokens.
pub fn special_texts(model: &LlamaModel) -> Vec<String> {
    let texts = model
        .vocab()
        .tokens()
        .filter(|token| is_special(model, *token))
        .map(|token| token_text(model, token));
    texts.filter(|text| !text.is_empty()).collect()
}

/// Whether a token has no text and does not end an answer either.
pub fn is_textless(model: &LlamaModel, token: LlamaToken) -> bool {
    is_special(model, token) && !model.vocab().is_eog(token)
}

fn is_special(model: &LlamaModel, token: LlamaToken) -> bool {
    let vocabulary = model.vocab();
    vocabulary.is_control(token) || vocabulary.attr(token).contains(LlamaTokenAttr::Unknown)
}
