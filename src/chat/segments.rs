//! A rendered conversation as segments: those in which the texts of special tokens become these, and
//! those in which they stay what a user wrote.

use std::collections::HashSet;

use super::placeholder::Placeholder;
use super::text_set::TextSet;
use crate::shared::failure::Failure;

/// Unicode's noncharacters, which no text needs: two that are not in the conversation mark what must
/// not become special tokens.
const MARKS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// A stretch of a prompt.
#[derive(Debug, PartialEq)]
pub struct Segment {
    /// What it says.
    pub text: String,
    /// Whether the texts of special tokens in it become these tokens.
    pub special: bool,
}

/// Tells the special tokens of a chat template from those that are written in messages.
pub struct Segmenter {
    /// Texts of special tokens.
    special: TextSet,
    placeholder: Placeholder,
}

impl Segmenter {
    /// For this template, and a model with special tokens of these texts.
    pub fn new(template: &str, special: Vec<String>) -> Self {
        Self {
            placeholder: Placeholder::new(template, &special),
            special: TextSet::new(special),
        }
    }

    /// The segments of a conversation with these contents, which `fill` renders with others in their
    /// place.
    ///
    /// # Errors
    /// Those of `fill`, and `bad_request` if the template changes a message so that the special tokens
    /// in it cannot be distinguished from the template's own.
    pub fn segments(
        &self,
        contents: &[&str],
        fill: impl Fn(&[String]) -> Result<String, Failure>,
    ) -> Result<Vec<Segment>, Failure> {
        let mut marks = MARKS.filter(|mark| !contents.iter().any(|text| text.contains(*mark)));
        let (Some(open), Some(close)) = (marks.next(), marks.next()) else {
            let message = "The messages contain all, or all but one, of the characters U+FDD0 to \
                U+FDEF; the bridge needs two that they do not contain";
            return Err(Failure::bad_request(message));
        };
        let mark = |text: &&str| self.mark(text, open, close);
        let marked: Vec<String> = contents.iter().map(mark).collect();
        let rendered = fill(&marked)?;
        let segments = split(&rendered, open, close);
        let placeholders: Vec<String> = marked
            .iter()
            .map(|content| self.placeholder.of(content))
            .collect();
        // The template may have truncated, changed or joined what was between the marks, or beside
        // them.
        let own = fill(&placeholders).map_err(|failure| {
            Failure::bad_request(format!(
                "{}; it fails so with placeholders for the messages, so that its own special tokens \
                 cannot be distinguished from what was written in them",
                failure.message
            ))
        })?;
        let own = split(&own, open, close);
        let (own, found) = (self.special_texts(&own), self.special_texts(&segments));
        let moved = self.moved(&marked, &rendered, open, close);
        let differ = own.iter().zip(&found).position(|(own, found)| own != found);
        let differ = differ.unwrap_or(own.len().min(found.len()));
        let what = found.get(differ).or(own.get(differ)).copied();
        let Some(what) = what.or(moved.as_deref()) else {
            return Ok(segments);
        };
        Err(Failure::bad_request(format!(
            "Chat template: it changes the messages, so that it is unclear whether a '{what}' in the \
             prompt is its own or was written in a message"
        )))
    }

    /// Puts marks around whatever in a user's text would become a special token. All other text stays
    /// as it is, so that the template sees what it was written for.
    fn mark(&self, text: &str, open: char, close: char) -> String {
        let mut marked = String::with_capacity(text.len());
        let mut done = 0;
        while let Some(found) = self.special.find(text, done) {
            let adjoins = found.start == done && marked.ends_with(close);
            if adjoins {
                marked.pop();
            } else {
                marked.push_str(&text[done..found.start]);
                marked.push(open);
            }
            marked.push_str(&text[found.clone()]);
            marked.push(close);
            done = found.end;
        }
        marked.push_str(&text[done..]);
        marked
    }

    /// A special token that was written in a message, if the template has separated what is marked
    /// from its marks, or has put something else between them. Then a token of its own may have become
    /// plain, and one of a message taken its place.
    fn moved(&self, marked: &[String], rendered: &str, open: char, close: char) -> Option<String> {
        let contents = marked.iter().filter_map(|text| between(text, open, close));
        let written: Vec<&str> = contents.flatten().collect();
        let first = self.special.find(written.first()?, 0)?;
        let known: HashSet<&str> = written.iter().copied().collect();
        let harmless = |text: &&str| known.contains(text) || self.special.find(text, 0).is_none();
        let found = between(rendered, open, close);
        let whole = found.is_some_and(|found| found.iter().all(harmless));
        (!whole).then(|| written[0][first].to_string())
    }

    /// The special tokens that segments will become, in their order.
    fn special_texts<'s>(&self, segments: &'s [Segment]) -> Vec<&'s str> {
        let mut texts = Vec::new();
        for segment in segments.iter().filter(|segment| segment.special) {
            let mut from = 0;
            while let Some(found) = self.special.find(&segment.text, from) {
                from = found.end;
                texts.push(&segment.text[found]);
            }
        }
        texts
    }
}

/// Splits a rendered conversation at the marks. Where the template dropped the one that closes, all
/// is plain up to the next one that opens.
fn split(rendered: &str, open: char, close: char) -> Vec<Segment> {
    let mut segments = Vec::new();
    for (index, part) in rendered.split(open).enumerate() {
        let (plain, rest) = match part.split_once(close) {
            _ if index == 0 => ("", part),
            Some(parts) => parts,
            None => (part, ""),
        };
        for (text, special) in [(plain, false), (rest, true)] {
            if !text.is_empty() {
                // No mark is for the model, not even one whose counterpart the template dropped.
                let text = text.replace(close, "");
                segments.push(Segment { text, special });
            }
        }
    }
    segments
}

/// What is between the marks, if each that opens is followed by one that closes.
fn between(text: &str, open: char, close: char) -> Option<Vec<&str>> {
    let mut parts = text.split(open);
    let before = parts.next().unwrap_or_default();
    let pairs = parts.map(|part| part.split_once(close));
    let pairs: Vec<(&str, &str)> = pairs.collect::<Option<_>>()?;
    let mut outside = pairs.iter().map(|(_, after)| *after).chain([before]);
    let closed = outside.all(|text| !text.contains(close));
    closed.then(|| pairs.iter().map(|(between, _)| *between).collect())
}

#[cfg(test)]
mod tests;
