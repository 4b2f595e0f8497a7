//! Finds many texts, those of special tokens for instance, in another one in a single pass.

use std::ops::Range;

/// A text of at most this many bytes is not split any further.
pub const SLICE: usize = 16 * 1024;

/// Texts to find.
pub struct TextSet {
    /// In order; none is empty.
    sorted: Vec<String>,
    /// Whether one of them begins with this byte.
    first: [bool; 256],
    /// Of the longest, in bytes.
    longest: usize,
}

impl TextSet {
    /// Texts to find; empty ones do not count.
    pub fn new(mut texts: Vec<String>) -> Self {
        texts.retain(|text| !text.is_empty());
        texts.sort_unstable();
        let mut first = [false; 256];
        for text in &texts {
            first[usize::from(text.as_bytes()[0])] = true;
        }
        Self {
            longest: texts.iter().map(String::len).max().unwrap_or(0),
            sorted: texts,
            first,
        }
    }

    /// The length, in bytes, of the longest text that these bytes begin with.
    pub fn at(&self, bytes: &[u8]) -> Option<usize> {
        if !bytes.first().is_some_and(|b| self.first[usize::from(*b)]) {
            return None;
        }
        let mut longest = None;
        // Those that begin with the bytes so far.
        let mut left = &self.sorted[..];
        for (depth, byte) in bytes.iter().enumerate() {
            let next = |text: &String| text.as_bytes().get(depth).copied();
            let start = left.partition_point(|text| next(text) < Some(*byte));
            let end = left.partition_point(|text| next(text) <= Some(*byte));
            left = &left[start..end];
            match left.first() {
                None => break,
                Some(text) if text.len() == depth + 1 => longest = Some(text.len()),
                Some(_) => (),
            }
        }
        longest
    }

    /// Where the first of them is, from byte `from` on; of several at one position the longest.
    pub fn find(&self, text: &str, from: usize) -> Option<Range<usize>> {
        let bytes = text.as_bytes();
        (from..bytes.len()).find_map(|at| Some(at..at + self.at(&bytes[at..])?))
    }

    /// Splits a text before some of them, into slices that are little longer than [`SLICE`] where
    /// there is a position to split at.
    pub fn slices<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut slices = Vec::new();
        let mut start = 0;
        while let Some(at) = self.split_point(text, start + SLICE) {
            slices.push(&text[start..at]);
            start = at;
        }
        slices.push(&text[start..]);
        slices
    }

    /// The first position from `from` on where llama.cpp is sure to split as well, in whatever order
    /// it searches for the texts: no other one overlaps with the one there.
    fn split_point(&self, text: &str, mut from: usize) -> Option<usize> {
        let bytes = text.as_bytes();
        loop {
            let found = self.find(text, from)?;
            let before = found.start.saturating_sub(self.longest)..found.start;
            let reaches_in = |at: usize| {
                let end = self.at(&bytes[at..]).map(|length| at + length);
                end.is_some_and(|end| end > found.start)
            };
            let as_long = |at: usize| self.at(&bytes[at..]) >= Some(found.len());
            // Blanks before it can belong to the token of a text that ends there.
            let blank = bytes[found.start].is_ascii_whitespace();
            if !blank
                && !before.into_iter().any(reaches_in)
                && !(found.start + 1..found.end).any(as_long)
            {
                return Some(found.start);
            }
            from = found.start + 1;
        }
    }
}
