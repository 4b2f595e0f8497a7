//! How long a sentence of the model process may be: a notice, or why it cannot do something. The
//! process keeps to it, and the bridge takes no longer one.

/// Bytes. The path of a file, which is in many of them, has at most 4,096.
pub const MAX_SENTENCE: usize = 8192;

/// The sentence, if need be without its end, which is then said. A chat template, for instance, can
/// fail with a whole conversation.
pub fn shortened(sentence: String) -> String {
    if sentence.len() <= MAX_SENTENCE {
        return sentence;
    }
    let mark = format!("... ({} bytes)", sentence.len());
    let end = floor_char_boundary(&sentence, MAX_SENTENCE - mark.len());
    format!("{}{mark}", &sentence[..end])
}

/// The largest index up to `at`, which is within the text, where a character starts.
pub fn floor_char_boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_shortened_to_the_limit_and_says_so() {
        let longest = "a".repeat(MAX_SENTENCE);
        assert_eq!(shortened(longest.clone()), longest);
        let shorter = shortened(format!("{longest}b"));
        assert_eq!(shorter.len(), MAX_SENTENCE);
        assert!(shorter.ends_with("aaa... (8193 bytes)"));
        // No character is cut in two.
        let shorter = shortened("\u{20ac}".repeat(MAX_SENTENCE));
        assert!(shorter.len() <= MAX_SENTENCE && shorter.ends_with("\u{20ac}... (24576 bytes)"));
    }
}
