//! In place of chat templates, in a build without them.

use llama_cpp_bridge::chat::segments::Segment;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::Turn;

/// A chat template that cannot be rendered.
pub struct Template;

impl Template {
    /// Keeps nothing.
    pub fn new(_: String, _: String, _: String, _: Vec<String>) -> Self {
        Self
    }

    /// Says what is missing.
    ///
    /// # Errors
    /// Always `unsupported`.
    pub fn render(&self, _: &[Turn]) -> Result<Vec<Segment>, Failure> {
        let message = "Chat templates need a bridge built with the feature chat-template";
        Err(Failure::new(Code::Unsupported, message))
    }
}
