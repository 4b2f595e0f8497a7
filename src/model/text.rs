//! From the bytes of tokens, which may end inside a character, to text.

/// What stands for bytes that are no UTF-8.
const REPLACEMENT: &str = "\u{fffd}";

/// Joins the bytes of tokens into whole characters.
#[derive(Default)]
pub(super) struct Text {
    /// The start of a character whose end has not come yet; three bytes at the most.
    pending: Vec<u8>,
}

impl Text {
    /// Takes the bytes of a token and gives the characters that they complete. Bytes that cannot
    /// be part of any become U+FFFD, as in llama-server.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
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
    pub(super) fn finish(&mut self) -> &'static str {
        let complete = self.pending.is_empty();
        self.pending.clear();
        if complete { "" } else { REPLACEMENT }
    }
}
