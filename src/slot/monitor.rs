//! What the model process may say, and when: the one place that everything passes before anything
//! believes it, as in OpenSSH's monitor. A model file may own that process. A message that the model
//! program would not send is an error, and ends the process.

mod request;

use std::time::Instant;

use self::request::{Model, Request};
use super::rate::Rate;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::{Answer, FromModel, Part, Ready, ToModel};
use llama_cpp_bridge::shared::parts::LONGEST_MESSAGE;
use llama_cpp_bridge::shared::ranges::MAX_CONTEXT;
use llama_cpp_bridge::shared::sentence::MAX_SENTENCE;
use llama_cpp_bridge::shared::settings::{DEFAULT_CONTEXT, MAX_PARALLEL, ModelParams};

/// Longest greeting, in bytes: some ten times that of a model program.
const LONGEST_GREETING: usize = 1024;

/// Most notices: some three times as many as a model program has.
const NOTICES: u32 = 16;

/// How often a process may say that it is busy, at once and a second from then on. It does so before
/// each step of a tenth of a second and more, and before each that fails.
const BUSY: (u32, u32) = (1024, 100);

/// How often it may say so beside that for each request: before a state is written or read, however
/// quick that is.
const BUSY_OF_REQUEST: u32 = 1;

/// Most that is saved up of that: requests are answered before many more come.
const MOST_BUSY_OF_REQUESTS: u32 = 2 * MAX_PARALLEL;

/// Most gaps of the sandbox: once as it is entered, and once when it is made closer.
const MOST_LACKS: usize = 2;

/// Most numbers in an embedding: 4 times as many as the largest models have.
const MAX_EMBEDDING: u32 = 1 << 16;

/// Most tokens in a vocabulary: some 60 times as many as the largest have.
const MAX_VOCABULARY: u32 = 1 << 24;

/// What may come, and how much of it.
pub struct Monitor {
    phase: Phase,
    /// Most tokens that a context of the model to load can have.
    max_context: u32,
    model: Model,
    notices: u32,
    busy: Rate,
    /// How often it may say that it is busy beside that.
    busy_of_requests: u32,
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

type Verdict = Result<(), String>;

impl Monitor {
    /// Of a process that was started now.
    pub fn new() -> Self {
        Self {
            phase: Phase::Greeting,
            max_context: 0,
            model: Model::default(),
            notices: 0,
            busy: Rate::new(BUSY.0, BUSY.1),
            busy_of_requests: 0,
            requests: Vec::new(),
        }
    }

    /// Whether it has said which build it is of.
    pub fn greeted(&self) -> bool {
        self.phase != Phase::Greeting
    }

    /// The longest message that may come now, in bytes.
    pub fn longest_message(&self) -> usize {
        match self.phase {
            Phase::Greeting => LONGEST_GREETING,
            _ => LONGEST_MESSAGE,
        }
    }

    /// Takes note of what it is sent.
    pub fn sent(&mut self, message: &ToModel, now: Instant) {
        match message {
            ToModel::Load(params) => {
                self.max_context = max_context(params);
                self.model.parallel = params.parallel;
            }
            ToModel::Work(id, work) => {
                let more = self.busy_of_requests + BUSY_OF_REQUEST;
                self.busy_of_requests = more.min(MOST_BUSY_OF_REQUESTS);
                self.requests
                    .push(Request::new(*id, work, &self.model, now));
            }
            // One that is given up is answered as well.
            ToModel::Hello(_) | ToModel::Cancel(_) => (),
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
                match self.busy_of_requests.checked_sub(1) {
                    Some(left) => self.busy_of_requests = left,
                    None => expect(self.busy.take(now), || "busy too often".into())?,
                }
            }
            (Phase::Working, FromModel::Part(id, part)) => self.check_part(*id, part)?,
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
        let lacks = &ready.sandbox_lacks;
        expect(lacks.len() <= MOST_LACKS, || {
            format!("{} gaps of the sandbox", lacks.len())
        })?;
        lacks.iter().try_for_each(|what| check_sentence(what))?;
        check_range("context_size", ready.context_size, 1, self.max_context)?;
        check_range("embedding_size", ready.embedding_size, 0, MAX_EMBEDDING)?;
        let size = ready.vocabulary_size;
        check_range("vocabulary_size", size, 0, MAX_VOCABULARY)?;
        self.model.context_size = ready.context_size;
        self.model.embedding_size = ready.embedding_size;
        self.model.vocabulary_size = ready.vocabulary_size;
        Ok(())
    }

    fn check_part(&mut self, id: u64, part: &Part) -> Verdict {
        let mut requests = self.requests.iter_mut();
        match requests.find(|request| request.id == id) {
            Some(request) => request.check_part(part, &self.model),
            None => Err(format!("a part of an answer to {id}, which was not asked")),
        }
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
        request.check_answer(outcome, &self.model, now)
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

/// What a message is called in a reason.
fn name(message: &FromModel) -> &'static str {
    match message {
        FromModel::Hello(_) => "a greeting",
        FromModel::Ready(_) => "a loaded model",
        FromModel::Refused(_) => "a refused model",
        FromModel::Notice(_) => "a notice",
        FromModel::Busy(_) => "busy",
        FromModel::Part(..) => "a part of an answer",
        FromModel::Answer(..) => "an answer",
    }
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

#[cfg(test)]
mod tests;
