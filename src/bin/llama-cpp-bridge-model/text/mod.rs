//! Text to tokens and back, and chat templates.

#[cfg(feature = "chat-template")]
mod chat_template;
pub(crate) mod detokenizer;
#[cfg(not(feature = "chat-template"))]
mod no_chat_template;
#[cfg(feature = "chat-template")]
mod placeholder;
pub(crate) mod special_tokens;
pub(crate) mod tokenizer;

#[cfg(feature = "chat-template")]
pub(crate) use chat_template::Template;
#[cfg(not(feature = "chat-template"))]
pub(crate) use no_chat_template::Template;
