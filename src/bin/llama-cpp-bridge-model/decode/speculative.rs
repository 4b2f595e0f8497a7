//! Speculation: where a text repeats what came before, its next tokens are guessed (a draft),
//! evaluated with the last one in one batch, and accepted as far as the model chooses the same.

use std::time::Duration;

use llama_cpp_2::token::LlamaToken;

use crate::decode::draft::AcceptRate;
use crate::decode::sequence::Sequence;

/// The fewest tokens that must have come before in the same order, for what followed them to be a
/// guess.
const MIN_MATCH: usize = 3;

/// A match of this length is as good as a longer one.
const MAX_MATCH: usize = 16;

/// How much faster a batch with drafts must promise to be.
const MARGIN: f64 = 1.05;

/// The cost of a further token in a batch, as a part of the first one's, until it is measured.
const ASSUMED: f64 = 0.35;

/// The weight of a new measurement.
const SMOOTHING: f64 = 0.3;

/// How fast a measurement is forgotten with each token, so that a slow moment is not the last word.
const FORGETTING: f64 = 0.01;

/// Sizes of batches that are measured separately: up to 3 tokens, 7, 15, 31, 63, and more.
const SIZES: usize = 6;

/// When to speculate, and how far.
pub(super) struct Speculator {
    /// The longest draft; 0 for none.
    max_draft: usize,
    /// Seconds that one token takes.
    one: Option<f64>,
    /// Seconds that each further token takes, by the size of the batch.
    further: [Option<f64>; SIZES],
}

impl Speculator {
    /// For drafts of at most `max_draft` tokens; 0 for none.
    pub(super) fn new(max_draft: u32) -> Self {
        Self {
            max_draft: max_draft as usize,
            one: None,
            further: [None; SIZES],
        }
    }

    /// Gives drafts to the sequences that generate, if that makes the next batch faster. `plan` says
    /// how many tokens it takes of each, and all drafts together have at most `space` tokens.
    pub(super) fn draft(&self, running: &mut [Sequence], plan: &[usize], mut space: usize) {
        let with_prompt = running.iter().any(|sequence| sequence.n_pending() > 1);
        let mut n_tokens = plan.iter().sum::<usize>();
        let mut expected = n_tokens as f64;
        for (sequence, planned) in running.iter_mut().zip(plan) {
            let max_draft = self.max_draft.min(sequence.max_draft());
            if max_draft == 0 || with_prompt || *planned == 0 {
                sequence.set_draft(&[], 0);
                continue;
            }
            let draft = continuation(sequence.tokens(), max_draft).to_vec();
            let usable = draft.len().min(space);
            let draft_len = self.best(sequence.accept_rate(), usable, n_tokens, expected);
            expected += sequence.accept_rate().expected(draft_len);
            n_tokens += draft_len;
            space -= draft_len;
            sequence.set_draft(&draft, draft_len);
        }
    }

    /// Learns from a batch in which every token was the last one of a sequence or of a draft.
    pub(super) fn learn(&mut self, n_tokens: usize, took: Duration) {
        let took = took.as_secs_f64();
        if n_tokens == 1 {
            self.one = Some(smoothed(self.one, took));
            let assumed = took * ASSUMED;
            for further in self.further.iter_mut().flatten() {
                *further += (assumed - *further) * FORGETTING;
            }
        } else if let Some(one) = self.one {
            let further = (took - one).max(0.0) / (n_tokens - 1) as f64;
            let size = &mut self.further[size_class(n_tokens)];
            *size = Some(smoothed(*size, further));
        }
    }

    /// The draft length, up to `usable`, that gives most tokens per second in a batch of `n_tokens`
    /// that is expected to give `expected` tokens without it.
    fn best(&self, rate: &AcceptRate, usable: usize, n_tokens: usize, expected: f64) -> usize {
        let Some(one) = self.one else {
            return 0;
        };
        let mut best = (0, MARGIN * expected / self.time(one, n_tokens));
        for draft_len in 1..=usable {
            let tokens = expected + rate.expected(draft_len);
            let speed = tokens / self.time(one, n_tokens + draft_len);
            if speed > best.1 {
                best = (draft_len, speed);
            }
        }
        best.0
    }

    /// Seconds that a batch of `n_tokens` takes, by those of its size, else of the nearest smaller,
    /// else of the nearest larger one.
    fn time(&self, one: f64, n_tokens: usize) -> f64 {
        let (smaller, larger) = self.further.split_at(size_class(n_tokens) + 1);
        let mut nearest = smaller.iter().rev().chain(larger).flatten();
        let further = nearest.next().copied().unwrap_or(one * ASSUMED);
        one + further * n_tokens.saturating_sub(1) as f64
    }
}

/// What followed the last tokens where they occurred before, up to `max_draft` tokens: of all
/// occurrences the one with the longest match before it, of equals the latest.
fn continuation(tokens: &[LlamaToken], max_draft: usize) -> &[LlamaToken] {
    let mut best = (0, MIN_MATCH - 1);
    for end in (MIN_MATCH..tokens.len()).rev() {
        let pairs = tokens[..end].iter().rev().zip(tokens.iter().rev());
        let matched = pairs.take(MAX_MATCH).take_while(|(a, b)| a == b).count();
        if matched > best.1 {
            best = (end, matched);
        }
        if matched == MAX_MATCH {
            break;
        }
    }
    match best {
        (0, _) => &[],
        (end, _) => &tokens[end..tokens.len().min(end + max_draft)],
    }
}

fn size_class(n_tokens: usize) -> usize {
    let doubled = n_tokens.max(2).ilog2() as usize;
    (doubled - 1).min(SIZES - 1)
}

fn smoothed(old: Option<f64>, new: f64) -> f64 {
    old.map_or(new, |old| old + (new - old) * SMOOTHING)
}
