//! Conversations without what renders them: telling in a prompt the special tokens of the chat
//! template from what was written in the messages.

mod placeholder;
pub mod segments;
pub mod text_set;
