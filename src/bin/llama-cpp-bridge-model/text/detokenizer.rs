//! From the bytes of tokens to the text of an answer: characters and stop strings that span tokens,
//! and how much of the text is certain and may be sent.

use llama_cpp_bridge::shared::sentence::floor_char_boundary;

/// In place of bytes that are not UTF-8.
const REPLACEMENT: &str = "\u{fffd}";

/// The text of an answer as it grows.
pub struct Output {
    characters: Characters,
    text: String,
    /// Bytes of the text that were sent.
    sent: usize,
    stop_strings: Vec<String>,
}

impl Output {
    /// An empty text, to be ended by any of these strings.
    pub fn new(stop_strings: Vec<String>) -> Self {
        Self {
            characters: Characters::default(),
            text: String::new(),
            sent: 0,
            stop_strings,
        }
    }

    /// Adds the bytes of a token. Returns whether a stop string has ended the text.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let new = self.characters.push(bytes);
        self.append(&new)
    }

    /// Ends the text where it is. Returns whether that completed a stop string.
    pub fn finish(&mut self) -> bool {
        let rest = self.characters.finish();
        self.append(rest)
    }

    /// What has become certain since the last call: all but an end that could still become a stop
    /// string.
    pub fn piece(&mut self) -> String {
        let held_back = self
            .stop_strings
            .iter()
            .map(|stop| overlap(&self.text, stop))
            .max();
        self.send(self.text.len() - held_back.unwrap_or(0))
    }

    /// All that was not sent yet, now that the text is complete.
    pub fn last_piece(&mut self) -> String {
        self.send(self.text.len())
    }

    /// Bytes of the whole text.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    fn send(&mut self, end: usize) -> String {
        let piece = self.text[self.sent..end].to_string();
        self.sent = end;
        piece
    }

    fn append(&mut self, new: &str) -> bool {
        let old = self.text.len();
        self.text.push_str(new);
        let found = self.stop_strings.iter().filter_map(|stop| {
            // One that starts in the old text needs at least one byte of the new.
            let from = floor_char_boundary(&self.text, (old + 1).saturating_sub(stop.len()));
            self.text[from..].find(stop.as_str()).map(|at| from + at)
        });
        match found.min() {
            Some(at) => {
                self.text.truncate(at);
                // The token may have begun a character after the stop string.
                self.characters = Characters::default();
                true
            }
            None => false,
        }
    }
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
    /// The start of a character whose end has not come yet; at most three bytes.
    pending: Vec<u8>,
}

impl Characters {
    /// Adds bytes and returns the characters that they complete. Bytes that cannot be part of any
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

/// The text of bytes that are complete; what is not UTF-8 becomes U+FFFD.
pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
