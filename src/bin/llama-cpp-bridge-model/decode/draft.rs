//! What is guessed of the tokens that follow in a sequence, and how often that was right.

/// What the rate keeps with each further one: it looks some ten guesses back.
const MEMORY: f64 = 0.9;

/// How often guesses in a text were right; also those that were only held against the text, which
/// costs nothing.
pub(crate) struct AcceptRate {
    right: f64,
    all: f64,
}

impl Default for AcceptRate {
    /// Nothing is known, which is not enough to go by.
    fn default() -> Self {
        Self {
            right: 0.5,
            all: 1.0,
        }
    }
}

impl AcceptRate {
    /// Adds a guess.
    pub(crate) fn note(&mut self, right: bool) {
        self.right = self.right * MEMORY + f64::from(u8::from(right));
        self.all = self.all * MEMORY + 1.0;
    }

    /// How many of so many guesses in a row are right, up to the first that is wrong.
    pub(crate) fn expected(&self, guesses: usize) -> f64 {
        let chance = self.right / self.all;
        (1..=guesses).map(|n| chance.powi(n as i32)).sum()
    }
}
