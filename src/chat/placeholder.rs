//! Placeholders for messages, to find out which special tokens a chat template writes by itself: texts
//! of the same shape from which no special token can come.

use std::str::Chars;

use crate::chat::text_set::TextSet;

/// Unicode's OBJECT REPLACEMENT CHARACTER, which is not a letter, has no case, and is not in any
/// special token.
const FILLER: char = '\u{fffc}';

/// Makes placeholders.
pub(super) struct Placeholder {
    /// What the template may look for in a message, in lower case.
    looked_for: TextSet,
}

impl Placeholder {
    /// For the messages of this template, and a model with special tokens of these texts.
    pub(super) fn new(template: &str, special: &[String]) -> Self {
        let special: Vec<String> = special.iter().map(|s| s.to_ascii_lowercase()).collect();
        let mut looked_for = quoted(template);
        for text in &mut looked_for {
            text.make_ascii_lowercase();
        }
        // Neither a special token nor a part of one may stay in the text.
        looked_for.retain(|text| {
            let related = |special: &String| special.contains(text) || text.contains(special);
            !special.iter().any(related)
        });
        Self {
            looked_for: TextSet::new(looked_for),
        }
    }

    /// As many characters as the text has. Its blanks and whatever the template may look for stay, so
    /// that the template takes the same branches.
    pub(super) fn of(&self, text: &str) -> String {
        let lower = text.to_ascii_lowercase();
        let mut placeholder = String::with_capacity(text.len());
        let mut kept = 0;
        for (index, character) in text.char_indices() {
            if index >= kept {
                let length = self.looked_for.at(&lower.as_bytes()[index..]);
                kept = index + length.unwrap_or(0);
            }
            let stays = index < kept || character.is_whitespace();
            placeholder.push(if stays { character } else { FILLER });
        }
        placeholder
    }
}

/// The texts in quotes in a template's code.
fn quoted(template: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        rest = &rest[at..];
        rest = if rest.starts_with("{#") {
            rest.split_once("#}").map_or("", |(_, after)| after)
        } else if rest.starts_with("{{") || rest.starts_with("{%") {
            quoted_in_code(&rest[2..], &mut texts)
        } else {
            &rest[1..]
        };
    }
    texts
}

/// Adds the texts in quotes up to the end of a piece of code; returns what comes after it.
fn quoted_in_code<'t>(code: &'t str, texts: &mut Vec<String>) -> &'t str {
    let mut characters = code.chars();
    loop {
        let rest = characters.as_str();
        if rest.starts_with("}}") || rest.starts_with("%}") {
            return &rest[2..];
        }
        match characters.next() {
            None => return "",
            Some(quote @ ('\'' | '"')) => texts.push(rest_of_quoted(&mut characters, quote)),
            Some(_) => (),
        }
    }
}

/// A text in quotes, after its first quote.
fn rest_of_quoted(characters: &mut Chars<'_>, quote: char) -> String {
    let mut text = String::new();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some('r') => text.push('\r'),
                escaped => text.extend(escaped),
            },
            _ if character == quote => break,
            _ => text.push(character),
        }
    }
    text
}
