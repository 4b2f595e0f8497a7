//! What the model process may say, and when: the one place that everything passes before anything
//! believes it, as in OpenSSH's monitor. A model file may own that process. A message that the model
//! program would not send is an error, and ends the process. What it can send is none, for any model
//! whose tokens are on average no longer than [`TOKEN_BYTES`].

use std::time::{Duration, Instant};

use super::rate::Rate;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::{
    Answer, Done, Embedding, FromModel, Generate, Ready, State, ToModel, Work,
};
use llama_cpp_bridge::shared::ranges::MAX_CONTEXT;
use llama_cpp_bridge::shared::sentence::MAX_SENTENCE;
use llama_cpp_bridge::shared::settings::{DEFAULT_CONTEXT, ModelParams};

/// Longest greeting, in bytes: some ten times that of a model program.
const GREETING_LINE: usize = 1024;

/// Longest message of a process that is asked for nothing: two sentences, each byte escaped.
const LINE: usize = 128 * 1024;

/// Most notices: some three times as many as a model program has.
const NOTICES: u32 = 16;

/// How often a process may say that it is busy, at once and a second from then on. It does so before
/// each step of a tenth of a second and more, and before each that fails.
const BUSY: (u32, u32) = (1024, 100);

/// Bytes of text for each token that is generated or turned into text. The longest tokens of real
/// vocabularies have 128.
const TOKEN_BYTES: usize = 256;

/// Bytes of text that are taken however few tokens they are of.
const MIN_TEXT: usize = 1 << 20;

/// Tokens for each byte of a text. Normalization makes up to 6 characters of one byte.
const BYTE_TOKENS: usize = 8;

/// Tokens beyond those, for what a vocabulary puts around a text.
const MORE_TOKENS: usize = 64;

/// Most numbers in an embedding: 16 times as many as the largest models have.
const MAX_EMBEDDING: u32 = 1 << 20;

/// Largest saved state, in bytes: the most that --state-limit takes.
const MAX_STATE: u64 = 1 << 50;

/// Most tokens in a vocabulary: some 60 times as many as the largest have.
const MAX_VOCABULARY: u32 = 1 << 24;

/// Bytes of a number in JSON, and of a byte of text: a newline takes two, and only control characters
/// that are none of the usual ones more, which are tokens of a byte each.
const NUMBER_BYTES: usize = 64;
const ESCAPE_BYTES: usize = 2;

/// How much longer than it was waited for an answer may claim to have taken: times are rounded.
const CLOCK_SLACK: Duration = Duration::from_secs(1);

/// What may come, and how much of it.
pub struct Monitor {
    phase: Phase,
    /// Most tokens that a context of the model to load can have.
    max_context: u32,
    context_size: u32,
    embedding_size: u32,
    vocabulary_size: u32,
    notices: u32,
    busy: Rate,
    /// Those that were asked and are not answered, those that were given up included.
    requests: Vec<Request>,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// It has to say which build it is of.
    Greeting,
    /// It loads the model.
    Loading,
    /// It serves requests.
    Working,
    /// It has said that it cannot load the model, which was its last word.
    Refused,
}

/// A request that has an answer to come.
struct Request {
    id: u64,
    asked: Instant,
    expected: Expected,
}

/// What answers a request, unless it fails.
enum Expected {
    Generated(Text),
    Embedding,
    Tokens { most: usize },
    Text { most: usize },
    State,
}

/// A text that is generated.
struct Text {
    /// Most tokens that can be generated.
    tokens: usize,
    /// Bytes that it may have.
    most: usize,
    seed: u32,
    streams: bool,
    /// Pieces of it that have come, and their bytes.
    pieces: usize,
    streamed: usize,
}

type Verdict = Result<(), String>;

impl Monitor {
    /// Of a process that was started now.
    pub fn new() -> Self {
        Self {
            phase: Phase::Greeting,
            max_context: 0,
            context_size: 0,
            embedding_size: 0,
            vocabulary_size: 0,
            notices: 0,
            busy: Rate::new(BUSY.0, BUSY.1),
            requests: Vec::new(),
        }
    }

    /// Whether it has said which build it is of.
    pub fn greeted(&self) -> bool {
        self.phase != Phase::Greeting
    }

    /// The longest message that may come now, in bytes.
    pub fn longest_line(&self) -> usize {
        match self.phase {
            Phase::Greeting => GREETING_LINE,
            _ => {
                let answers = self.requests.iter().map(|request| self.line_of(request));
                LINE + answers.max().unwrap_or(0)
            }
        }
    }

    /// Bytes that the answer to a request may have, beside its other fields.
    fn line_of(&self, request: &Request) -> usize {
        match &request.expected {
            Expected::Generated(text) => ESCAPE_BYTES.saturating_mul(text.most),
            Expected::Text { most } => ESCAPE_BYTES.saturating_mul(*most),
            Expected::Embedding => NUMBER_BYTES * self.embedding_size as usize,
            Expected::Tokens { most } => {
                let digits = self.vocabulary_size.to_string().len();
                (digits + 1).saturating_mul(*most)
            }
            Expected::State => 0,
        }
    }

    /// Takes note of what it is sent.
    pub fn sent(&mut self, message: &ToModel, now: Instant) {
        match message {
            ToModel::Load(params) => self.max_context = max_context(params),
            ToModel::Work(id, work) => self.requests.push(Request {
                id: *id,
                asked: now,
                expected: self.expected(work),
            }),
            // One that is given up is answered as well.
            ToModel::Hello(_) | ToModel::Cancel(_) => (),
        }
    }

    fn expected(&self, work: &Work) -> Expected {
        match work {
            Work::Generate(request) => Expected::Generated(self.text(request)),
            Work::Embed(_) => Expected::Embedding,
            Work::Tokenize(text) => Expected::Tokens {
                most: text.len().saturating_mul(BYTE_TOKENS) + MORE_TOKENS,
            },
            Work::Detokenize(tokens) => Expected::Text {
                most: text_bytes(tokens.len()),
            },
            Work::Save(_) | Work::Restore(_) => Expected::State,
        }
    }

    fn text(&self, request: &Generate) -> Text {
        // The last token need not fit the context, and the prompt has at least one.
        let fit = self.context_size as usize;
        let tokens = usize::try_from(request.max_tokens).map_or(fit, |most| most.min(fit));
        Text {
            tokens,
            most: text_bytes(tokens),
            seed: request.seed,
            streams: request.stream,
            pieces: 0,
            streamed: 0,
        }
    }

    /// Checks a message that has come.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&mut self, message: &FromModel, now: Instant) -> Verdict {
        match (self.phase, message) {
            (Phase::Greeting, FromModel::Hello(_)) => self.phase = Phase::Loading,
            (Phase::Loading, FromModel::Notice(notice)) => {
                self.notices += 1;
                expect(self.notices <= NOTICES, || {
                    format!("more than {NOTICES} notices")
                })?;
                check_sentence(notice)?;
            }
            (Phase::Loading, FromModel::Ready(ready)) => {
                self.check_ready(ready)?;
                self.phase = Phase::Working;
            }
            (Phase::Loading, FromModel::Refused(reason)) => {
                check_sentence(reason)?;
                self.phase = Phase::Refused;
            }
            (Phase::Working, FromModel::Busy(_)) => {
                expect(!self.requests.is_empty(), || {
                    "busy without a request".into()
                })?;
                expect(self.busy.take(now), || "busy too often".into())?;
            }
            (Phase::Working, FromModel::Piece(id, piece)) => self.check_piece(*id, piece)?,
            (Phase::Working, FromModel::Answer(id, outcome)) => {
                self.check_answer(*id, outcome, now)?;
            }
            (phase, message) => {
                let (what, when) = (name(message), phase.name());
                return Err(format!("{what} while it {when}"));
            }
        }
        Ok(())
    }

    fn check_ready(&mut self, ready: &Ready) -> Verdict {
        check_sentence(&ready.description)?;
        check_sentence(&ready.architecture)?;
        check_range("context_size", ready.context_size, 1, self.max_context)?;
        check_range("embedding_size", ready.embedding_size, 0, MAX_EMBEDDING)?;
        let size = ready.vocabulary_size;
        check_range("vocabulary_size", size, 0, MAX_VOCABULARY)?;
        self.context_size = ready.context_size;
        self.embedding_size = ready.embedding_size;
        self.vocabulary_size = ready.vocabulary_size;
        Ok(())
    }

    fn check_piece(&mut self, id: u64, piece: &str) -> Verdict {
        let request = self.requests.iter_mut().find(|request| request.id == id);
        let Some(Request {
            expected: Expected::Generated(text),
            ..
        }) = request.filter(|request| request.streams())
        else {
            return Err(format!("a piece for {id}, which is not a stream"));
        };
        expect(!piece.is_empty(), || "an empty piece".into())?;
        text.pieces += 1;
        text.streamed += piece.len();
        // What was held back comes with the answer.
        expect(text.pieces <= text.tokens + 1, || {
            "more pieces than tokens".into()
        })?;
        text.check_bytes(text.streamed)
    }

    fn check_answer(
        &mut self,
        id: u64,
        outcome: &Result<Answer, Failure>,
        now: Instant,
    ) -> Verdict {
        let found = self.requests.iter().position(|request| request.id == id);
        let Some(request) = found.map(|at| self.requests.swap_remove(at)) else {
            return Err(format!("an answer to {id}, which was not asked"));
        };
        let answer = match outcome {
            Ok(answer) => answer,
            Err(failure) => return check_failure(failure),
        };
        match (&request.expected, answer) {
            (Expected::Generated(text), Answer::Generated(done)) => {
                self.check_tokens_of(done, text)?;
                check_times(done, now.saturating_duration_since(request.asked))
            }
            (Expected::Embedding, Answer::Embedding(embedding)) => self.check_embedding(embedding),
            (Expected::Tokens { most }, Answer::Tokens(tokens)) => self.check_tokens(tokens, *most),
            (Expected::Text { most }, Answer::Text(text)) => check_bytes(text.len(), *most),
            (Expected::State, Answer::State(state)) => self.check_state(state),
            _ => Err("an answer of another kind than was asked for".into()),
        }
    }

    fn check_tokens_of(&self, done: &Done, text: &Text) -> Verdict {
        text.check_bytes(done.text.len())?;
        check_range("prompt_tokens", done.prompt_tokens, 1, self.context_size)?;
        check_range("cached_tokens", done.cached_tokens, 0, done.prompt_tokens)?;
        let fit = self.context_size - done.prompt_tokens + 1;
        let most = fit.min(u32::try_from(text.tokens).unwrap_or(fit));
        check_range("completion_tokens", done.completion_tokens, 0, most)?;
        check_range("seed", done.seed, text.seed, text.seed)
    }

    fn check_embedding(&self, embedding: &Embedding) -> Verdict {
        let (count, size) = (embedding.values.len(), self.embedding_size as usize);
        expect(count == size, || {
            format!("an embedding of {count} numbers, not {size}")
        })?;
        expect(
            embedding.values.iter().all(|value| value.is_finite()),
            || "an embedding that is not finite".into(),
        )?;
        let tokens = embedding.prompt_tokens;
        check_range("prompt_tokens", tokens, 1, self.context_size)
    }

    fn check_tokens(&self, tokens: &[i32], most: usize) -> Verdict {
        let count = tokens.len();
        expect(count <= most, || {
            format!("{count} tokens, where {most} are possible")
        })?;
        let known = |token: &i32| u32::try_from(*token).is_ok_and(|t| t < self.vocabulary_size);
        match tokens.iter().find(|token| !known(token)) {
            Some(token) => Err(format!("{token} is not a token of the model")),
            None => Ok(()),
        }
    }

    fn check_state(&self, state: &State) -> Verdict {
        // llama.cpp rounds the cells of a context up.
        let cells = self.context_size.next_multiple_of(256);
        check_range("state_tokens", state.tokens, 0, cells)?;
        expect(state.bytes <= MAX_STATE, || {
            format!("a state of {} bytes", state.bytes)
        })
    }
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Greeting => "is started",
            Self::Loading => "loads a model",
            Self::Working => "serves requests",
            Self::Refused => "is to end",
        }
    }
}

impl Request {
    fn streams(&self) -> bool {
        matches!(&self.expected, Expected::Generated(text) if text.streams)
    }
}

impl Text {
    fn check_bytes(&self, count: usize) -> Verdict {
        check_bytes(count, self.most)
    }
}

/// What a message is called in a reason.
fn name(message: &FromModel) -> &'static str {
    match message {
        FromModel::Hello(_) => "a greeting",
        FromModel::Ready(_) => "a loaded model",
        FromModel::Refused(_) => "a refused model",
        FromModel::Notice(_) => "a notice",
        FromModel::Busy(_) => "busy",
        FromModel::Piece(..) => "a piece",
        FromModel::Answer(..) => "an answer",
    }
}

/// Bytes of text that so many tokens may have.
fn text_bytes(tokens: usize) -> usize {
    tokens.saturating_mul(TOKEN_BYTES).max(MIN_TEXT)
}

fn max_context(params: &ModelParams) -> u32 {
    match params.ctx_size.unwrap_or(DEFAULT_CONTEXT) {
        0 => MAX_CONTEXT,
        asked => asked.min(MAX_CONTEXT),
    }
}

fn expect(holds: bool, reason: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(reason()) }
}

fn check_range(name: &str, value: u32, low: u32, high: u32) -> Verdict {
    expect((low..=high).contains(&value), || {
        format!("{name} {value}, which is not within {low} to {high}")
    })
}

fn check_bytes(count: usize, most: usize) -> Verdict {
    expect(count <= most, || {
        format!("a text of {count} bytes, where {most} are possible")
    })
}

fn check_sentence(sentence: &str) -> Verdict {
    let count = sentence.len();
    expect(count <= MAX_SENTENCE, || {
        format!("a sentence of {count} bytes, where {MAX_SENTENCE} are allowed")
    })
}

fn check_failure(failure: &Failure) -> Verdict {
    check_sentence(&failure.message)?;
    let its_own = match failure.code {
        Code::BadRequest
        | Code::ContextExceeded
        | Code::Unsupported
        | Code::Denied
        | Code::NotFound
        | Code::Internal => true,
        Code::UnknownCommand
        | Code::TooLong
        | Code::NoModel
        | Code::LoadFailed
        | Code::ModelDied
        | Code::Timeout
        | Code::Unauthenticated => false,
    };
    expect(its_own, || {
        format!("the code {}, which is not its own", failure.code.name())
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

#[cfg(test)]
mod tests;
