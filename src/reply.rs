//! Every reply that a client can get, and the one place that writes them as JSON.

use miniserde::{Deserialize, Serialize, json};

/// What kind of failure an error reply tells of. The words are part of the protocol.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// The request cannot be understood or lacks something.
    #[serde(rename = "bad_request")]
    BadRequest,
    /// There is no such verb.
    #[serde(rename = "unknown_command")]
    UnknownCommand,
    /// The request is longer than the bridge takes.
    #[serde(rename = "too_long")]
    TooLong,
    /// The request needs a model and none is loaded.
    #[serde(rename = "no_model")]
    NoModel,
    /// The model could not be loaded; the one before is still in place.
    #[serde(rename = "load_failed")]
    LoadFailed,
    /// The prompt does not fit the context.
    #[serde(rename = "context_exceeded")]
    ContextExceeded,
    /// The loaded model cannot do this.
    #[serde(rename = "unsupported")]
    Unsupported,
    /// The model process ended while it worked on the request.
    #[serde(rename = "model_died")]
    ModelDied,
    /// The client may not do this.
    #[serde(rename = "denied")]
    Denied,
    /// What the request names does not exist.
    #[serde(rename = "not_found")]
    NotFound,
    /// Anything else; the message tells.
    #[serde(rename = "internal")]
    Internal,
}

/// Why a request failed: the word and the sentence of its error reply.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    /// The word for programs.
    pub(crate) code: Code,
    /// The sentence for people.
    pub(crate) message: String,
}

impl Failure {
    /// A failure of this kind, explained by this sentence.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The request is wrong in itself.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, message)
    }

    /// The request needs a model and none is loaded.
    pub(crate) fn no_model() -> Self {
        Self::new(Code::NoModel, "No model loaded")
    }
}

/// What a handler gives back when all went well.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    /// Only a sentence.
    Message(String),
    /// A sentence and a text.
    Data {
        /// The sentence.
        message: &'static str,
        /// The text.
        data: String,
    },
}

impl Reply {
    /// A reply of one sentence.
    pub(crate) fn message(message: impl Into<String>) -> Self {
        Self::Message(message.into())
    }
}

#[derive(Serialize)]
enum Status {
    #[serde(rename = "ok")]
    Ok,
    #[serde(rename = "error")]
    Error,
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
struct ErrorLine<'a> {
    status: Status,
    message: &'a str,
    code: Code,
}

/// The line that answers a request, with its LF.
pub(crate) fn line(outcome: &Result<Reply, Failure>) -> String {
    let status = Status::Ok;
    let mut line = match outcome {
        Ok(Reply::Message(message)) => json::to_string(&MessageLine { status, message }),
        Ok(Reply::Data { message, data }) => json::to_string(&DataLine {
            status,
            message,
            data,
        }),
        Err(Failure { code, message }) => json::to_string(&ErrorLine {
            status: Status::Error,
            message,
            code: *code,
        }),
    };
    line.push('\n');
    line
}
