//! What the slot reports: what happened to requests and loads, and what came of a call.

use llama_cpp_bridge::shared::failure::Failure;
use llama_cpp_bridge::shared::message::Answer;

/// What happened in the model processes. Requests go by the number that [`Slot::ask`] gave them.
///
/// [`Slot::ask`]: super::Slot::ask
#[derive(Debug)]
pub enum Event {
    /// The next piece of the text of a request: of one that streams, or of a long one.
    Piece(u64, String),
    /// The answer to a request; no further event is about it.
    Answer(u64, Result<Answer, Failure>),
    /// A load ended: that of a LOAD, or the reload of a model that was unloaded.
    LoadEnded(Result<(), Failure>),
}

/// What came of a call of [`Slot::load`](super::Slot::load).
#[derive(Debug, PartialEq)]
pub enum LoadStatus {
    /// The very file is loaded already.
    Loaded,
    /// It is under way; [`Event::LoadEnded`] will end it.
    UnderWay,
    /// A process that is ending has to be gone first: call again after the next events.
    NotYet,
}

/// Whether a request can be given to the model.
#[derive(Debug, PartialEq)]
pub enum Readiness {
    /// There is no model.
    Empty,
    /// At once.
    Ready,
    /// When the model is loaded again, or its process free.
    NotYet,
}
