//! Conversations: whatever is written in a message, and whatever a template makes of it, no special
//! token of the prompt is one that a user wrote, and templates that only copy are never refused.

use std::cell::RefCell;

use llama_cpp_bridge::chat::segments::{Segment, Segmenter};
use llama_cpp_bridge::shared::failure::Code;

use super::Draw;

/// Special tokens of a model. In those that are plain, none begins within another.
const PLAIN: [&[&str]; 3] = [
    &["<|im_start|>", "<|im_end|>", "<|endoftext|>"],
    &["<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<<SYS>>"],
    &["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
];
const OTHERS: [&[&str]; 3] = [
    &["ab", "abc", "bcd", "cda"],
    &["<a>", "<a><b>", "<b>", ">"],
    &["<|User|>", "<|user|>", "|>"],
];

/// What a message can hold besides special tokens, and a template can look for in it.
const WORDS: [&str; 14] = [
    "user",
    "a",
    "<",
    "|",
    ">",
    "\n",
    " ",
    "</think>",
    "<tool_call>",
    "\u{fdd0}",
    "\u{fdd1}\u{fdd2}",
    "\u{fffc}",
    "\u{e9}\u{1f600}",
    "A",
];

/// A character, and whether it was written in a message.
type Written = Vec<(char, bool)>;

/// What a template does with a message.
#[derive(Clone, Copy, Debug)]
enum Change {
    Nothing,
    Trim,
    Lower,
    Upper,
    Reverse,
    /// Without its first characters.
    Skip(usize),
    /// Only its first characters.
    First(usize),
    /// Without the characters of this text.
    Without(&'static str),
    /// What follows this text, if it is there.
    After(&'static str),
}

/// A part of a template.
#[derive(Debug)]
enum Piece {
    Literal(String),
    Message(usize, Change),
}

/// A template.
#[derive(Debug)]
struct Template {
    pieces: Vec<Piece>,
    /// Its code, as far as it says what the template looks for.
    source: String,
    /// Whether it writes parts of tokens, or turns messages round.
    fragments: bool,
    /// Whether it copies messages, and writes nothing between them but whole tokens and newlines.
    copies: bool,
}

/// Special tokens, messages and a template are drawn.
pub(crate) fn check(input: &[u8]) {
    let mut draw = Draw::new(input);
    let set = draw.below(PLAIN.len() + OTHERS.len());
    let special = PLAIN
        .iter()
        .chain(&OTHERS)
        .nth(set)
        .expect("it is one of them");
    let contents: Vec<String> = (0..1 + draw.below(3))
        .map(|_| message(&mut draw, special))
        .collect();
    let mut template = Template {
        pieces: Vec::new(),
        source: String::new(),
        fragments: false,
        copies: set < PLAIN.len(),
    };
    while !draw.is_empty() && template.pieces.len() < 24 {
        let piece = template.next(&mut draw, special, contents.len());
        template.pieces.push(piece);
    }
    if template.fragments {
        // What is looked for stays in placeholders; of its parts anything could then be made.
        template.source.clear();
    }
    let texts: Vec<&str> = contents.iter().map(String::as_str).collect();
    let special_texts = special.iter().map(ToString::to_string).collect();
    let segmenter = Segmenter::new(&template.source, special_texts);
    let first = RefCell::new(None);
    let outcome = segmenter.segments(&texts, |contents| {
        let written = template.render(contents);
        let text = written.iter().map(|(character, _)| *character).collect();
        first.borrow_mut().get_or_insert(written);
        Ok(text)
    });
    match outcome {
        Ok(segments) => {
            let written = without_marks(first.take().expect("it was rendered"), &contents);
            let forged = forged(&segments, &written, special);
            assert_eq!(forged, None, "{contents:?} in {template:?}");
        }
        Err(failure) => {
            assert_eq!(failure.code, Code::BadRequest);
            assert!(!template.copies, "refused: {contents:?} in {template:?}");
        }
    }
}

/// A message of words and of special tokens, whole and in parts.
fn message(draw: &mut Draw<'_>, special: &[&str]) -> String {
    let count = draw.below(8);
    (0..count).map(|_| part(draw, special)).collect()
}

fn part(draw: &mut Draw<'_>, special: &[&str]) -> String {
    let token = draw.pick(special);
    let at = draw.below(token.len());
    match draw.below(4) {
        0 => token.to_string(),
        1 => token[..at].to_string(),
        2 => token[at..].to_string(),
        _ => draw.pick(&WORDS).to_string(),
    }
}

impl Template {
    fn next(&mut self, draw: &mut Draw<'_>, special: &[&str], messages: usize) -> Piece {
        let change = match draw.below(16) {
            0 | 1 => return Piece::Literal(draw.pick(special).to_string()),
            2 => return Piece::Literal("\n".to_string()),
            3 => {
                let text = part(draw, special);
                self.copies = false;
                self.fragments = true;
                return Piece::Literal(text);
            }
            4 => Change::Trim,
            5 => Change::Lower,
            6 => Change::Upper,
            7 => Change::Skip(draw.below(12)),
            8 => Change::First(draw.below(12)),
            9 => {
                self.fragments = true;
                Change::Reverse
            }
            // Not marks and placeholders: a template that drops what it does not know is beyond this.
            10 => Change::Without(draw.pick(&WORDS[..9])),
            11 => {
                let word = draw.pick(&WORDS);
                self.source
                    .push_str(&format!("{{% if '{word}' in message %}}"));
                Change::After(word)
            }
            _ => Change::Nothing,
        };
        // Two messages next to each other can make a token together.
        let beside = matches!(self.pieces.last(), Some(Piece::Message(..)));
        self.copies &= matches!(change, Change::Nothing) && !beside;
        Piece::Message(draw.below(messages), change)
    }

    fn render(&self, contents: &[String]) -> Written {
        let mut written = Written::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => written.extend(text.chars().map(|c| (c, false))),
                Piece::Message(at, change) => {
                    let text = change.of(&contents[*at]);
                    written.extend(text.chars().map(|c| (c, true)));
                }
            }
        }
        written
    }
}

impl Change {
    fn of(self, text: &str) -> String {
        match self {
            Self::Nothing => text.to_string(),
            Self::Trim => text.trim().to_string(),
            Self::Lower => text.to_lowercase(),
            Self::Upper => text.to_uppercase(),
            Self::Reverse => text.chars().rev().collect(),
            Self::Skip(count) => text.chars().skip(count).collect(),
            Self::First(count) => text.chars().take(count).collect(),
            Self::Without(word) => text.chars().filter(|c| !word.contains(*c)).collect(),
            Self::After(word) => text
                .split_once(word)
                .map_or(text, |(_, after)| after)
                .to_string(),
        }
    }
}

/// What was rendered, without the marks: the first two that are in no message.
fn without_marks(mut written: Written, contents: &[String]) -> Written {
    let marks = ('\u{fdd0}'..='\u{fdef}').filter(|m| !contents.iter().any(|t| t.contains(*m)));
    let marks: Vec<char> = marks.take(2).collect();
    written.retain(|(character, _)| !marks.contains(character));
    written
}

/// A special token of the segments, which are all that was rendered, with a character that was
/// written in a message; blanks do not count.
fn forged<'s>(segments: &[Segment], written: &Written, special: &[&'s str]) -> Option<&'s str> {
    let mut rest = &written[..];
    let mut forged = None;
    for segment in segments {
        let (own, after) = rest.split_at(segment.text.chars().count());
        let characters = own.iter().map(|(character, _)| *character);
        assert!(characters.eq(segment.text.chars()), "{segments:?}");
        rest = after;
        if segment.special {
            forged = forged.or(token_of_users(own, special));
        }
    }
    assert!(rest.is_empty(), "{rest:?} is in no segment");
    forged
}

/// Looks at each special token, the longest where several begin.
fn token_of_users<'s>(mut rest: &[(char, bool)], special: &[&'s str]) -> Option<&'s str> {
    while !rest.is_empty() {
        let begins = |token: &&&str| {
            let count = token.chars().count();
            rest.len() >= count && rest.iter().zip(token.chars()).all(|((c, _), t)| *c == t)
        };
        let longest = special
            .iter()
            .filter(begins)
            .max_by_key(|token| token.len());
        let count = longest.map_or(1, |token| token.chars().count());
        let (token, after) = rest.split_at(count);
        let users = |(character, user): &(char, bool)| *user && !character.is_whitespace();
        if longest.is_some() && token.iter().any(users) {
            return longest.copied();
        }
        rest = after;
    }
    None
}
