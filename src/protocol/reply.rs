//! Every reply that a client can get, and the one place that writes them as JSON.

use miniserde::{Serialize, json};

use crate::shared::failure::{Code, Failure};
use crate::shared::message::{Answer, Done, Embedding, FinishReason, Ready, State};
use crate::shared::sandbox::{Extent, Sandbox};

/// The message of a reply with a generated text.
pub const COMPLETED: &str = "Inference completed";
/// The message where a model is needed or asked for and there is none.
pub const NO_MODEL: &str = "No model loaded";

/// What answers a request when all went well.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Only a sentence.
    Message(String),
    /// A sentence and a text.
    Data {
        /// The sentence.
        message: &'static str,
        /// The text.
        data: String,
    },
    /// A generated text with its statistics.
    Completion(Done),
    /// The embedding of a text.
    Embedding(Embedding),
    /// The tokens of a text.
    Tokens(Vec<i32>),
    /// A sentence, and the figures of a saved state.
    State(&'static str, State),
    /// What there is to know about the bridge, and about its model if it has one.
    Info {
        /// How far the model process is confined.
        sandbox: Sandbox,
        /// The model.
        model: Option<Box<Info>>,
    },
}

/// What INFO reports of the loaded model.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// The path, as it was given.
    pub model: String,
    /// Threads that generate.
    pub threads: u32,
    /// Requests that are worked on together at most.
    pub parallel: u32,
    /// What the model process reported.
    pub ready: Ready,
}

impl Reply {
    /// A reply of one sentence.
    pub fn message(message: impl Into<String>) -> Self {
        Self::Message(message.into())
    }
}

/// The reply to a request of this verb, of what the model answered to each of its jobs; `None` if
/// those are answers to something else.
pub fn from_answers(verb: &str, answers: Vec<Answer>) -> Option<Reply> {
    let [answer] = <[Answer; 1]>::try_from(answers).ok()?;
    Some(match (verb, answer) {
        ("INFER", Answer::Generated(done)) => Reply::Data {
            message: COMPLETED,
            data: done.text,
        },
        ("STREAM" | "CHAT" | "GENERATE", Answer::Generated(done)) => Reply::Completion(*done),
        ("EMBED", Answer::Embedding(embedding)) => Reply::Embedding(embedding),
        ("TOKENIZE", Answer::Tokens(tokens)) => Reply::Tokens(tokens),
        ("DETOKENIZE", Answer::Text(data)) => Reply::Data {
            message: "Detokenization completed",
            data,
        },
        ("SAVE", Answer::State(state)) => Reply::State("State saved", state),
        ("RESTORE", Answer::State(state)) => Reply::State("State restored", state),
        _ => return None,
    })
}

#[derive(Serialize)]
enum Status {
    #[serde(rename = "ok")]
    Ok,
    #[serde(rename = "error")]
    Error,
    #[serde(rename = "partial")]
    Partial,
}

#[derive(Serialize)]
struct MessageLine<'a> {
    status: Status,
    message: &'a str,
}

#[derive(Serialize)]
struct DataLine<'a> {
    status: Status,
    message: &'a str,
    data: &'a str,
}

#[derive(Serialize)]
struct CompletionLine<'a> {
    status: Status,
    message: &'a str,
    data: &'a str,
    finish_reason: FinishReason,
    prompt_tokens: u32,
    cached_tokens: u32,
    completion_tokens: u32,
    prompt_ms: f64,
    completion_ms: f64,
    seed: u32,
}

#[derive(Serialize)]
struct EmbeddingLine<'a> {
    status: Status,
    message: &'a str,
    embedding: &'a Vec<f64>,
    prompt_tokens: u32,
}

#[derive(Serialize)]
struct TokensLine<'a> {
    status: Status,
    message: &'a str,
    tokens: &'a Vec<i32>,
}

#[derive(Serialize)]
struct StateLine<'a> {
    status: Status,
    message: &'a str,
    state_tokens: u32,
    state_bytes: u64,
}

#[derive(Serialize)]
struct VersionLine<'a> {
    status: Status,
    message: &'a str,
    version: &'a str,
    loaded: bool,
    sandbox: Extent,
    sandbox_lacks: &'a Vec<String>,
}

#[derive(Serialize)]
struct InfoLine<'a> {
    status: Status,
    message: &'a str,
    version: &'a str,
    model: &'a str,
    description: &'a str,
    architecture: &'a str,
    parameters: u64,
    size_bytes: u64,
    context_size: u32,
    training_context_size: u32,
    embedding_size: u32,
    vocabulary_size: u32,
    chat_template: bool,
    threads: u32,
    parallel: u32,
    loaded: bool,
    sandbox: Extent,
    sandbox_lacks: &'a Vec<String>,
}

#[derive(Serialize)]
struct ErrorLine<'a> {
    status: Status,
    message: &'a str,
    code: Code,
}

/// The line that answers a request, with its LF.
pub fn line(outcome: &Result<Reply, Failure>) -> String {
    let mut line = match outcome {
        Ok(reply) => success(reply),
        Err(Failure { code, message }) => json::to_string(&ErrorLine {
            status: Status::Error,
            message,
            code: *code,
        }),
    };
    line.push('\n');
    line
}

/// The line that gives a client a piece of a text that it asked to have streamed, with its LF.
pub fn partial_line(piece: &str) -> String {
    let mut line = json::to_string(&DataLine {
        status: Status::Partial,
        message: "token",
        data: piece,
    });
    line.push('\n');
    line
}

fn success(reply: &Reply) -> String {
    let status = Status::Ok;
    match reply {
        Reply::Message(message) => json::to_string(&MessageLine { status, message }),
        Reply::Data { message, data } => json::to_string(&DataLine {
            status,
            message,
            data,
        }),
        Reply::Completion(done) => completion(done),
        Reply::Embedding(embedding) => json::to_string(&EmbeddingLine {
            status,
            message: "Embedding completed",
            embedding: &embedding.values,
            prompt_tokens: embedding.prompt_tokens,
        }),
        Reply::Tokens(tokens) => json::to_string(&TokensLine {
            status,
            message: "Tokenization completed",
            tokens,
        }),
        Reply::State(message, state) => json::to_string(&StateLine {
            status,
            message,
            state_tokens: state.tokens,
            state_bytes: state.bytes,
        }),
        Reply::Info {
            sandbox,
            model: None,
        } => json::to_string(&VersionLine {
            status,
            message: NO_MODEL,
            version: env!("CARGO_PKG_VERSION"),
            loaded: false,
            sandbox: sandbox.extent,
            sandbox_lacks: &sandbox.lacks,
        }),
        Reply::Info {
            sandbox,
            model: Some(about),
        } => info(about, sandbox),
    }
}

fn completion(done: &Done) -> String {
    json::to_string(&CompletionLine {
        status: Status::Ok,
        message: COMPLETED,
        data: &done.text,
        finish_reason: done.finish_reason,
        prompt_tokens: done.prompt_tokens,
        cached_tokens: done.cached_tokens,
        completion_tokens: done.completion_tokens,
        prompt_ms: done.prompt_ms,
        completion_ms: done.completion_ms,
        seed: done.seed,
    })
}

fn info(about: &Info, sandbox: &Sandbox) -> String {
    let ready = &about.ready;
    json::to_string(&InfoLine {
        status: Status::Ok,
        message: "Model loaded",
        version: env!("CARGO_PKG_VERSION"),
        model: &about.model,
        description: &ready.description,
        architecture: &ready.architecture,
        parameters: ready.parameters,
        size_bytes: ready.size_bytes,
        context_size: ready.context_size,
        training_context_size: ready.training_context_size,
        embedding_size: ready.embedding_size,
        vocabulary_size: ready.vocabulary_size,
        chat_template: ready.chat_template,
        threads: about.threads,
        parallel: about.parallel,
        loaded: true,
        sandbox: sandbox.extent,
        sandbox_lacks: &sandbox.lacks,
    })
}

#[cfg(test)]
mod tests;
