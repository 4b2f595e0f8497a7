//! Drafts: tokens that are guessed to follow in a sequence, and how often that was right.

use llama_cpp_2::token::LlamaToken;

/// How much of the rate stays with each further guess: it covers the last ten or so.
const MEMORY: f64 = 0.9;

/// The guesses of a sequence.
#[derive(Default)]
pub(super) struct Draft {
    /// The tokens that are guessed to come next.
    tokens: Vec<LlamaToken>,
    /// How many of them are evaluated in the same batch as the last token.
    draft_len: usize,
    /// What became of those in the last batch, until the cache has been updated.
    outcome: Option<DraftOutcome>,
    rate: AcceptRate,
}

/// How many tokens of a draft that was evaluated were accepted, and how many were not.
#[derive(Clone, Copy)]
pub(super) struct DraftOutcome {
    pub(super) accepted: usize,
    pub(super) rejected: usize,
}

/// How often the guesses in a text were right. Those that were not evaluated count as well, since
/// comparing them costs nothing.
pub(super) struct AcceptRate {
    accepted: f64,
    all: f64,
}

impl Draft {
    /// Replaces the guesses; the first `draft_len` of them are for the next batch.
    pub(super) fn set(&mut self, tokens: &[LlamaToken], draft_len: usize) {
        self.tokens.clear();
        self.tokens.extend_from_slice(tokens);
        self.draft_len = draft_len;
    }

    /// Drops the guesses.
    pub(super) fn clear(&mut self) {
        self.set(&[], 0);
    }

    /// Adds the tokens for this batch by `add`, which returns whether there was space.
    pub(super) fn fill(&mut self, mut add: impl FnMut(usize, LlamaToken) -> bool) {
        let tokens = self.tokens[..self.draft_len].iter().enumerate();
        let added = tokens.take_while(|(index, token)| add(*index, **token));
        self.draft_len = added.count();
    }

    /// Compares a token that was chosen with the guess at this index. Returns whether the logits
    /// after it have been computed: it was in the batch, and right.
    pub(super) fn check(&mut self, index: usize, chosen: Option<&LlamaToken>) -> bool {
        let hit = self.tokens.get(index).map(|guess| Some(guess) == chosen);
        if let Some(hit) = hit {
            self.rate.note(hit);
        }
        index < self.draft_len && hit == Some(true)
    }

    /// Ends the draft of the last batch, of which this many tokens were accepted.
    pub(super) fn end(&mut self, accepted: usize) {
        self.outcome = (self.draft_len > 0).then(|| DraftOutcome {
            accepted,
            rejected: self.draft_len - accepted,
        });
        self.clear();
    }

    /// What became of the draft in the last batch, once; `None` if there was none.
    pub(super) fn take_outcome(&mut self) -> Option<DraftOutcome> {
        self.outcome.take()
    }

    /// How often the guesses were right so far.
    pub(super) fn rate(&self) -> &AcceptRate {
        &self.rate
    }
}

impl Default for AcceptRate {
    /// One guess in two, of which little is believed.
    fn default() -> Self {
        Self {
            accepted: 0.5,
            all: 1.0,
        }
    }
}

impl AcceptRate {
    fn note(&mut self, accepted: bool) {
        self.accepted = self.accepted * MEMORY + f64::from(u8::from(accepted));
        self.all = self.all * MEMORY + 1.0;
    }

    /// How many tokens of a draft of this length are likely to be accepted.
    pub(super) fn expected(&self, draft_len: usize) -> f64 {
        let chance = self.accepted / self.all;
        (1..=draft_len).map(|n| chance.powi(n as i32)).sum()
    }
}
