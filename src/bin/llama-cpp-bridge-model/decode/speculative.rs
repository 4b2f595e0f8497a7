//! Speculation: where a text repeats what stands before it, its next tokens are guessed, evaluated
//! with the last one in one batch, and kept as far as the model chooses just them.

use std::time::Duration;

use llama_cpp_2::token::LlamaToken;

use crate::decode::draft::AcceptRate;
use crate::decode::sequence::Sequence;

/// Tokens that must have come before in the same order, for what followed them to be a guess.
const SHORTEST: usize = 3;

/// So many are as good as any more.
const LONGEST: usize = 16;

/// How much faster a batch with guesses must promise to be.
const MARGIN: f64 = 1.05;

/// What a further token is taken to cost in a batch, in parts of the first one, while nothing is
/// measured.
const ASSUMED: f64 = 0.35;

/// The part of a measurement that counts.
const SMOOTHING: f64 = 0.3;

/// How fast a measurement is forgotten, with each token, so that a slow moment is not the last
/// word.
const FORGETTING: f64 = 0.01;

/// Sizes of batches that are measured each for itself: up to 3 tokens, 7, 15, 31, 63, and more.
const SIZES: usize = 6;

/// When to guess, and how much.
pub(crate) struct Speculator {
    /// Tokens guessed at a time at the most; 0 is none.
    most: usize,
    /// Seconds that one token takes.
    one: Option<f64>,
    /// Seconds that each further token takes, by the size of the batch.
    further: [Option<f64>; SIZES],
}

impl Speculator {
    /// For at most so many tokens at a time; 0 is none.
    pub(crate) fn new(most: u32) -> Self {
        Self {
            most: most as usize,
            one: None,
            further: [None; SIZES],
        }
    }

    /// Lets those that generate guess, of whose tokens the next batch takes so many, if that
    /// makes it faster. All guesses together have `room` tokens.
    pub(crate) fn prepare(&self, running: &mut [Sequence], plan: &[usize], mut room: usize) {
        let with_prompt = running.iter().any(|sequence| sequence.pending() > 1);
        let mut tokens = plan.iter().sum::<usize>();
        let mut fruit = tokens as f64;
        for (sequence, count) in running.iter_mut().zip(plan) {
            let most = self.most.min(sequence.guesses_at_most());
            if most == 0 || with_prompt || *count == 0 {
                sequence.guess(&[], 0);
                continue;
            }
            let guess = continuation(sequence.tokens(), most).to_vec();
            let count = self.best(sequence.accept_rate(), guess.len().min(room), tokens, fruit);
            fruit += sequence.accept_rate().expected(count);
            tokens += count;
            room -= count;
            sequence.guess(&guess, count);
        }
    }

    /// Learns from a batch of which every token was a last one or a guess.
    pub(crate) fn learn(&mut self, tokens: usize, took: Duration) {
        let took = took.as_secs_f64();
        if tokens == 1 {
            self.one = Some(smoothed(self.one, took));
            let assumed = took * ASSUMED;
            for further in self.further.iter_mut().flatten() {
                *further += (assumed - *further) * FORGETTING;
            }
        } else if let Some(one) = self.one {
            let further = (took - one).max(0.0) / (tokens - 1) as f64;
            let size = &mut self.further[size(tokens)];
            *size = Some(smoothed(*size, further));
        }
    }

    /// How many of `usable` guesses make the most of a batch of so many tokens, which gives
    /// `fruit` tokens without them.
    fn best(&self, accept_rate: &AcceptRate, usable: usize, tokens: usize, fruit: f64) -> usize {
        let Some(one) = self.one else {
            return 0;
        };
        let mut best = (0, MARGIN * fruit / self.time(one, tokens));
        for count in 1..=usable {
            let rate = (fruit + accept_rate.expected(count)) / self.time(one, tokens + count);
            if rate > best.1 {
                best = (count, rate);
            }
        }
        best.0
    }

    /// Seconds that a batch of so many tokens takes, by those of its size, else of the nearest
    /// smaller, else of the nearest larger one.
    fn time(&self, one: f64, tokens: usize) -> f64 {
        let (smaller, larger) = self.further.split_at(size(tokens) + 1);
        let mut nearest = smaller.iter().rev().chain(larger).flatten();
        let further = nearest.next().copied().unwrap_or(one * ASSUMED);
        one + further * tokens.saturating_sub(1) as f64
    }
}

/// What followed the last tokens where they stood before, up to `most` tokens: of all places the
/// one where most tokens before them are the same, of equals the latest.
fn continuation(tokens: &[LlamaToken], most: usize) -> &[LlamaToken] {
    let mut best = (0, SHORTEST - 1);
    for end in (SHORTEST..tokens.len()).rev() {
        let pairs = tokens[..end].iter().rev().zip(tokens.iter().rev());
        let same = pairs.take(LONGEST).take_while(|(a, b)| a == b).count();
        if same > best.1 {
            best = (end, same);
        }
        if same == LONGEST {
            break;
        }
    }
    match best {
        (0, _) => &[],
        (end, _) => &tokens[end..tokens.len().min(end + most)],
    }
}

fn size(tokens: usize) -> usize {
    let doubled = tokens.max(2).ilog2() as usize;
    (doubled - 1).min(SIZES - 1)
}

fn smoothed(old: Option<f64>, new: f64) -> f64 {
    old.map_or(new, |old| old + (new - old) * SMOOTHING)
}
