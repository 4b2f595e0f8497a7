//! Stands in for the chat templates in a bridge that was built without them.

use super::vocabulary::Segment;
use crate::failure::{Code, Failure};
use crate::message::Turn;

/// A chat template that cannot be rendered.
pub(super) struct Template;

impl Template {
    /// Remembers nothing.
    pub(super) fn new(_: String, _: String, _: String, _: Vec<String>) -> Self {
        Self
    }

    /// Says what is missing.
    ///
    /// # Errors
    /// Always `unsupported`.
    pub(super) fn render(&self, _: &[Turn]) -> Result<Vec<Segment>, Failure> {
        let message = "Chat templates need a bridge built with the feature chat-template";
        Err(Failure::new(Code::Unsupported, message))
    }
}
