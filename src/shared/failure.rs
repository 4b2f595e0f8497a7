//! Why a request failed: a closed set of words for programs, and a sentence for people.

use miniserde::{Deserialize, Serialize, json};

/// The kind of failure that an error reply reports. The words are part of the protocol.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
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
    /// The request, or the load of the model, took longer than it may.
    #[serde(rename = "timeout")]
    Timeout,
    /// The client has to show a token first.
    #[serde(rename = "unauthenticated")]
    Unauthenticated,
    /// The client may not do this.
    #[serde(rename = "denied")]
    Denied,
    /// What the request names does not exist.
    #[serde(rename = "not_found")]
    NotFound,
    /// Anything else; the message explains it.
    #[serde(rename = "internal")]
    Internal,
}

impl Code {
    /// All of them, in their order.
    pub const ALL: [Self; 13] = [
        Self::BadRequest,
        Self::UnknownCommand,
        Self::TooLong,
        Self::NoModel,
        Self::LoadFailed,
        Self::ContextExceeded,
        Self::Unsupported,
        Self::ModelDied,
        Self::Timeout,
        Self::Unauthenticated,
        Self::Denied,
        Self::NotFound,
        Self::Internal,
    ];

    /// The word.
    pub fn name(self) -> String {
        json::to_string(&self).trim_matches('"').to_string()
    }
}

/// Why a request failed: the word and the sentence of its error reply.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Failure {
    /// The word for programs.
    pub code: Code,
    /// The sentence for people.
    pub message: String,
}

impl Failure {
    /// A failure of this kind, explained by this sentence.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The request is wrong in itself.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, message)
    }

    /// SAVE of a model that has evaluated nothing.
    pub fn nothing_to_save() -> Self {
        let message = "Nothing to save: the model has evaluated no prompt since it was loaded";
        Self::new(Code::NotFound, message)
    }

    /// The request needs a model and none is loaded.
    pub fn no_model() -> Self {
        Self::new(Code::NoModel, "No model loaded")
    }
}
