//! What stands in for a message when it is found out which special tokens a chat template writes
//! of its own accord: a text of the same shape, of which no special token can come.

use std::str::Chars;

use crate::text::special_tokens::Texts;

/// Unicode's sign for an object that is somewhere else: a character that is no letter, has no
/// case, and is part of no special token.
const STAND_IN: char = '\u{fffc}';

/// Makes texts neutral.
pub(crate) struct Neutral {
    /// What the template may look for in a message, in lower case.
    looked_for: Texts,
}

impl Neutral {
    /// For the messages of this template, to a model with special tokens of these texts.
    pub(crate) fn new(template: &str, special: &[String]) -> Self {
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
            looked_for: Texts::new(looked_for),
        }
    }

    /// As many characters, blanks where there were blanks, and whatever the template may look for
    /// where it stood, so that the template takes the same branches.
    pub(crate) fn text(&self, text: &str) -> String {
        let lower = text.to_ascii_lowercase();
        let mut neutral = String::with_capacity(text.len());
        let mut kept = 0;
        for (at, character) in text.char_indices() {
            if at >= kept {
                let length = self.looked_for.at(&lower.as_bytes()[at..]);
                kept = at + length.unwrap_or(0);
            }
            let stays = at < kept || character.is_whitespace();
            neutral.push(if stays { character } else { STAND_IN });
        }
        neutral
    }
}

/// The texts in quotes in a template's code.
fn quoted(template: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        rest = &rest[at..];
        rest = if rest.starts_with("{#") {
            rest.split_once("#}").map_or("", |(_, behind)| behind)
        } else if rest.starts_with("{{") || rest.starts_with("{%") {
            quoted_in_code(&rest[2..], &mut texts)
        } else {
            &rest[1..]
        };
    }
    texts
}

/// Adds the texts in quotes up to the end of a piece of code; returns what stands behind that.
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

/// A text in quotes, whose first quote was taken already.
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
