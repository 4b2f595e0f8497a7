//! What may answer a request: of which kind, how much of it, in how many parts.

use std::time::{Duration, Instant};

use super::{Verdict, check_failure, check_range, expect};
use llama_cpp_bridge::shared::failure::Failure;
use llama_cpp_bridge::shared::message::{Answer, Done, Embedding, Generate, Part, State, Work};
use llama_cpp_bridge::shared::parts;

/// Longest token in bytes: some 500 times as long as those of real vocabularies.
pub(super) const LONGEST_TOKEN: usize = 64 * 1024;

/// Largest saved state, in bytes: the most that --state-limit takes.
pub(super) const MAX_STATE: u64 = 1 << 50;

/// How much longer than it was waited for an answer may claim to have taken: times are rounded.
const CLOCK_SLACK: Duration = Duration::from_secs(1);

/// What there is to know of the model for that.
#[derive(Default)]
pub(super) struct Model {
    pub(super) context_size: u32,
    pub(super) embedding_size: u32,
    pub(super) vocabulary_size: u32,
    /// Requests that it is given at once.
    pub(super) parallel: u32,
}

/// A request that has an answer to come.
pub(super) struct Request {
    pub(super) id: u64,
    asked: Instant,
    expected: Expected,
}

/// What answers a request, unless it fails.
enum Expected {
    Generated(Generated),
    /// Numbers.
    Embedding(Amount),
    /// Tokens.
    Tokens(Amount),
    /// Bytes.
    Text(Amount),
    State,
}

/// A text that is generated.
struct Generated {
    /// Most tokens that can be generated.
    tokens: usize,
    bytes: Amount,
    seed: u32,
    /// Pieces of it that have come.
    pieces: usize,
}

/// How much of something may come, and how much has.
struct Amount {
    most: usize,
    come: usize,
}

impl Request {
    pub(super) fn new(id: u64, work: &Work, model: &Model, now: Instant) -> Self {
        let parallel = model.parallel;
        let amount = |most| Amount { most, come: 0 };
        let expected = match work {
            Work::Generate(request) => Expected::Generated(Generated::new(request, model)),
            Work::Embed(_) => Expected::Embedding(amount(model.embedding_size as usize)),
            Work::Tokenize(text) => {
                Expected::Tokens(amount(parts::most_tokens(parallel, text.len())))
            }
            Work::Detokenize(tokens) => {
                Expected::Text(amount(parts::most_text_of_tokens(parallel, tokens.len())))
            }
            Work::Save(_) | Work::Restore(_) => Expected::State,
        };
        Self {
            id,
            asked: now,
            expected,
        }
    }

    pub(super) fn check_part(&mut self, part: &Part, model: &Model) -> Verdict {
        let count = match part {
            Part::Text(text) => text.len(),
            Part::Tokens(tokens) => tokens.len(),
            Part::Values(values) => values.len(),
        };
        expect(count > 0, || "an empty part of an answer".into())?;
        match (&mut self.expected, part) {
            (Expected::Generated(text), Part::Text(_)) => text.add_piece(count),
            (Expected::Text(bytes), Part::Text(_)) => bytes.add(count, "bytes"),
            (Expected::Tokens(amount), Part::Tokens(tokens)) => {
                amount.add_tokens(tokens, model.vocabulary_size)
            }
            (Expected::Embedding(amount), Part::Values(values)) => amount.add_values(values),
            _ => Err("a part of an answer of another kind than was asked for".into()),
        }
    }

    /// Checks what ends the answer.
    pub(super) fn check_answer(
        mut self,
        outcome: &Result<Answer, Failure>,
        model: &Model,
        now: Instant,
    ) -> Verdict {
        let answer = match outcome {
            Ok(answer) => answer,
            Err(failure) => return check_failure(failure),
        };
        match (&mut self.expected, answer) {
            (Expected::Generated(text), Answer::Generated(done)) => {
                text.check_done(done, model.context_size)?;
                check_times(done, now.saturating_duration_since(self.asked))
            }
            (Expected::Embedding(values), Answer::Embedding(embedding)) => {
                values.check_embedding(embedding, model.context_size)
            }
            (Expected::Tokens(amount), Answer::Tokens(tokens)) => {
                amount.add_tokens(tokens, model.vocabulary_size)
            }
            (Expected::Text(bytes), Answer::Text(text)) => bytes.add(text.len(), "bytes"),
            (Expected::State, Answer::State(state)) => check_state(state, model.context_size),
            _ => Err("an answer of another kind than was asked for".into()),
        }
    }
}

impl Generated {
    fn new(request: &Generate, model: &Model) -> Self {
        // The last token need not fit the context, and the prompt has at least one.
        let fit = model.context_size as usize;
        Self {
            tokens: usize::try_from(request.max_tokens).map_or(fit, |most| most.min(fit)),
            bytes: Amount {
                most: parts::most_text(model.parallel) + LONGEST_TOKEN,
                come: 0,
            },
            seed: request.seed,
            pieces: 0,
        }
    }

    fn add_piece(&mut self, bytes: usize) -> Verdict {
        self.bytes.add(bytes, "bytes")?;
        self.pieces += 1;
        // What was held back comes with the answer, and what is long in some more.
        let most = self.tokens + 1 + self.bytes.come / (parts::TEXT / 2);
        expect(self.pieces <= most, || "more pieces than tokens".into())
    }

    fn check_done(&mut self, done: &Done, context_size: u32) -> Verdict {
        self.bytes.add(done.text.len(), "bytes")?;
        check_range("prompt_tokens", done.prompt_tokens, 1, context_size)?;
        check_range("cached_tokens", done.cached_tokens, 0, done.prompt_tokens)?;
        let fit = context_size - done.prompt_tokens + 1;
        let most = fit.min(u32::try_from(self.tokens).unwrap_or(fit));
        check_range("completion_tokens", done.completion_tokens, 0, most)?;
        check_range("seed", done.seed, self.seed, self.seed)
    }
}

impl Amount {
    fn add(&mut self, count: usize, what: &str) -> Verdict {
        self.come += count;
        let (come, most) = (self.come, self.most);
        expect(come <= most, || {
            format!("an answer of {come} {what}, where {most} are possible")
        })
    }

    fn add_tokens(&mut self, tokens: &[i32], vocabulary_size: u32) -> Verdict {
        self.add(tokens.len(), "tokens")?;
        let known = |token: &i32| u32::try_from(*token).is_ok_and(|t| t < vocabulary_size);
        match tokens.iter().find(|token| !known(token)) {
            Some(token) => Err(format!("{token} is not a token of the model")),
            None => Ok(()),
        }
    }

    fn add_values(&mut self, values: &[f64]) -> Verdict {
        self.add(values.len(), "numbers")?;
        expect(values.iter().all(|value| value.is_finite()), || {
            "an embedding that is not finite".into()
        })
    }

    fn check_embedding(&mut self, embedding: &Embedding, context_size: u32) -> Verdict {
        self.add_values(&embedding.values)?;
        let (come, most) = (self.come, self.most);
        expect(come == most, || {
            format!("an embedding of {come} numbers, not {most}")
        })?;
        check_range("prompt_tokens", embedding.prompt_tokens, 1, context_size)
    }
}

fn check_state(state: &State, context_size: u32) -> Verdict {
    // llama.cpp rounds the cells of a context up.
    let cells = context_size.next_multiple_of(256);
    check_range("state_tokens", state.tokens, 0, cells)?;
    expect(state.bytes <= MAX_STATE, || {
        format!("a state of {} bytes", state.bytes)
    })
}

/// Checks the times of an answer that was waited for so long.
fn check_times(done: &Done, waited: Duration) -> Verdict {
    let most = (waited + CLOCK_SLACK).as_secs_f64() * 1000.0;
    let times = [done.prompt_ms, done.completion_ms];
    // NaN is not within any range.
    let within = times.iter().all(|time| (0.0..=most).contains(time));
    expect(within && times.iter().sum::<f64>() <= most, || {
        let [prompt, completion] = times;
        format!("prompt_ms {prompt:e} and completion_ms {completion:e} after {most:.0} ms")
    })
}
