//! From the bytes of tokens to the text of an answer: characters that span tokens, stop strings
//! that span tokens, and what of it may already be given out.

/// What stands for bytes that are no UTF-8.
const REPLACEMENT: &str = "\u{fffd}";

/// The text of an answer as it grows.
pub(crate) struct Output {
    characters: Characters,
    text: String,
    /// Bytes of the text that were given out.
    given: usize,
    stop: Vec<String>,
}

impl Output {
    /// An empty text, to be ended by any of these strings.
    pub(crate) fn new(stop: Vec<String>) -> Self {
        Self {
            characters: Characters::default(),
            text: String::new(),
            given: 0,
            stop,
        }
    }

    /// Takes the bytes of a token. Tells whether a stop string has ended the text.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> bool {
        let new = self.characters.push(bytes);
        self.append(&new)
    }

    /// Ends the text where it is. Tells whether that completed a stop string.
    pub(crate) fn finish(&mut self) -> bool {
        let rest = self.characters.finish();
        self.append(rest)
    }

    /// What has become certain since the last time: all but an end that could still become a stop
    /// string.
    pub(crate) fn piece(&mut self) -> String {
        let held = self.stop.iter().map(|stop| overlap(&self.text, stop)).max();
        self.give(self.text.len() - held.unwrap_or(0))
    }

    /// All that was not given out yet, the text being complete.
    pub(crate) fn last_piece(&mut self) -> String {
        self.give(self.text.len())
    }

    /// The whole text.
    pub(crate) fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    fn give(&mut self, end: usize) -> String {
        let piece = self.text[self.given..end].to_string();
        self.given = end;
        piece
    }

    fn append(&mut self, new: &str) -> bool {
        let old = self.text.len();
        self.text.push_str(new);
        let found = self.stop.iter().filter_map(|stop| {
            // One that starts in the old text needs at least one byte of the new.
            let from = floor_boundary(&self.text, (old + 1).saturating_sub(stop.len()));
            self.text[from..].find(stop.as_str()).map(|at| from + at)
        });
        match found.min() {
            Some(at) => {
                self.text.truncate(at);
                // The token may have begun a character behind the stop string.
                self.characters = Characters::default();
                true
            }
            None => false,
        }
    }
}

/// The largest place up to `at` where a character starts.
fn floor_boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// How many bytes at the end of the text are the beginning, but not all, of a stop string.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    let text = text.as_bytes();
    let stop = stop.as_bytes();
    (1..=longest)
        .rev()
        .find(|&length| text.ends_with(&stop[..length]))
        .unwrap_or(0)
}

/// Joins bytes into whole characters.
#[derive(Default)]
struct Characters {
    /// The start of a character whose end has not come yet; three bytes at the most.
    pending: Vec<u8>,
}

impl Characters {
    /// Takes bytes and gives the characters that they complete. Bytes that cannot be part of any
    /// become U+FFFD, as in llama-server.
    fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let (valid, rest) = self.pending.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(invalid) = error.error_len() else {
                        self.pending = rest.to_vec();
                        return text;
                    };
                    text.push_str(REPLACEMENT);
                    self.pending = rest[invalid..].to_vec();
                }
            }
        }
    }

    /// Ends the text. A character whose end never came becomes U+FFFD.
    fn finish(&mut self) -> &'static str {
        let complete = self.pending.is_empty();
        self.pending.clear();
        if complete { "" } else { REPLACEMENT }
    }
}

/// The text of bytes that are complete.
pub(crate) fn whole(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
