//! Answers that are too long for one message: how they come in parts, and how much they may have.
//! Both sides keep to it, so that no message takes long to read, whatever a model says.

use crate::shared::message::{Answer, Part};
use crate::shared::sentence::floor_char_boundary;

/// Longest message of the model process, in bytes. Each byte of a text can take 6 in JSON.
pub const LONGEST_MESSAGE: usize = 128 * 1024;

/// Bytes of text in a message.
pub const TEXT: usize = 16 * 1024;

/// Tokens in a message.
pub const TOKENS: usize = 8 * 1024;

/// Numbers of an embedding in a message.
pub const VALUES: usize = 4 * 1024;

/// Bytes of the texts of all answers that are under way; and tokens.
const ALL_TEXT: usize = 16 << 20;
const ALL_TOKENS: usize = 4 << 20;

/// Bytes of text that an answer may have in any case: some twice what fills a context of 131,072
/// tokens.
const MIN_TEXT: usize = 1 << 20;

/// Bytes that the text of an answer may have where so many requests are worked on together. One that
/// is generated ends there; the token that reaches it is whole.
pub fn most_text(parallel: u32) -> usize {
    (ALL_TEXT / parallel as usize).max(MIN_TEXT)
}

/// Tokens that a text of so many bytes may have: at least one for each byte. Where normalization makes
/// more of them, up to 6 characters of a byte, the answer may be an error.
pub fn most_tokens(parallel: u32, bytes: usize) -> usize {
    /// What a vocabulary puts around a text.
    const AROUND: usize = 64;
    (ALL_TOKENS / parallel as usize).max(bytes + AROUND)
}

/// Bytes of text that so many tokens may be turned into: 16 for each at least, several times what they
/// have on average. The longest of real vocabularies have 128.
pub fn most_text_of_tokens(parallel: u32, tokens: usize) -> usize {
    /// For each token.
    const BYTES: usize = 16;
    most_text(parallel).max(BYTES.saturating_mul(tokens))
}

/// An answer as the messages that it takes: parts of it, and what is left for the answer itself.
pub fn split(answer: Answer) -> (Vec<Part>, Answer) {
    match answer {
        Answer::Generated(mut done) => {
            let (parts, rest) = split_text(done.text);
            done.text = rest;
            (parts, Answer::Generated(done))
        }
        Answer::Text(text) => {
            let (parts, rest) = split_text(text);
            (parts, Answer::Text(rest))
        }
        Answer::Tokens(tokens) => {
            let (parts, rest) = split_list(&tokens, TOKENS, Part::Tokens);
            (parts, Answer::Tokens(rest))
        }
        Answer::Embedding(mut embedding) => {
            let (parts, rest) = split_list(&embedding.values, VALUES, Part::Values);
            embedding.values = rest;
            (parts, Answer::Embedding(embedding))
        }
        Answer::State(_) => (Vec::new(), answer),
    }
}

/// A text as parts of at most [`TEXT`] bytes, and the rest, which is no longer either.
pub fn split_text(text: String) -> (Vec<Part>, String) {
    let mut parts = Vec::new();
    let mut rest = text.as_str();
    while rest.len() > TEXT {
        let (part, after) = rest.split_at(floor_char_boundary(rest, TEXT));
        parts.push(Part::Text(part.to_string()));
        rest = after;
    }
    let rest = rest.to_string();
    (parts, rest)
}

fn split_list<T: Clone>(list: &[T], size: usize, part: fn(Vec<T>) -> Part) -> (Vec<Part>, Vec<T>) {
    let rest = list.len().saturating_sub(1) / size * size;
    let (parts, rest) = list.split_at(rest);
    let parts = parts.chunks(size).map(|chunk| part(chunk.to_vec()));
    (parts.collect(), rest.to_vec())
}

/// The parts of an answer that have come.
#[derive(Default)]
pub struct Parts {
    text: String,
    tokens: Vec<i32>,
    values: Vec<f64>,
}

impl Parts {
    /// Takes the next one.
    pub fn push(&mut self, part: Part) {
        match part {
            Part::Text(text) => self.text.push_str(&text),
            Part::Tokens(tokens) => self.tokens.extend(tokens),
            Part::Values(values) => self.values.extend(values),
        }
    }

    /// The whole answer, of which this is the end.
    pub fn complete(self, mut end: Answer) -> Answer {
        match &mut end {
            Answer::Generated(done) => done.text.insert_str(0, &self.text),
            Answer::Text(text) => text.insert_str(0, &self.text),
            Answer::Tokens(tokens) => drop(tokens.splice(0..0, self.tokens)),
            Answer::Embedding(embedding) => drop(embedding.values.splice(0..0, self.values)),
            Answer::State(_) => (),
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::message::{Embedding, FromModel};
    use crate::shared::wire::Message;

    /// How many parts an answer comes in, each of which is found to be short; and that it is the same
    /// when it is put together.
    fn count(answer: Answer) -> usize {
        let before = format!("{answer:?}");
        let (split, end) = split(answer);
        let count = split.len();
        let mut parts = Parts::default();
        for part in split {
            let message = FromModel::Part(u64::MAX, part);
            assert!(message.write().len() <= LONGEST_MESSAGE);
            let FromModel::Part(_, part) = message else {
                unreachable!()
            };
            parts.push(part);
        }
        let message = FromModel::Answer(u64::MAX, Ok(end));
        assert!(message.write().len() <= LONGEST_MESSAGE);
        let FromModel::Answer(_, Ok(end)) = message else {
            unreachable!()
        };
        assert_eq!(format!("{:?}", parts.complete(end)), before);
        count
    }

    #[test]
    fn an_answer_comes_in_as_many_parts_as_it_needs_and_is_the_same_after_it() {
        for (length, parts) in [
            (0, 0),
            (1, 0),
            (TEXT, 0),
            (TEXT + 1, 1),
            (2 * TEXT, 1),
            (2 * TEXT + 1, 2),
        ] {
            // The longest in JSON.
            assert_eq!(count(Answer::Text("\u{1}".repeat(length))), parts);
        }
        for (length, parts) in [
            (0, 0),
            (1, 0),
            (TOKENS, 0),
            (TOKENS + 1, 1),
            (9 * TOKENS, 8),
        ] {
            assert_eq!(count(Answer::Tokens(vec![i32::MIN; length])), parts);
        }
        for (length, parts) in [(0, 0), (1, 0), (VALUES, 0), (VALUES + 1, 1)] {
            let embedding = Embedding {
                values: vec![-f64::from(1.1e-38_f32); length],
                prompt_tokens: 1,
            };
            assert_eq!(count(Answer::Embedding(embedding)), parts);
        }
    }

    #[test]
    fn no_character_is_cut_in_two() {
        // 3 bytes each, of which TEXT is no multiple.
        assert_eq!(count(Answer::Text("\u{20ac}".repeat(TEXT))), 3);
    }
}
