//! Text to tokens and back, and chat templates.
//!
//! Shown to others: the functions of the tokenizer; [`Template`], which renders a conversation; and
//! [`Output`], the text of an answer as it grows.

#[cfg(feature = "chat-template")]
mod chat_template;
mod detokenizer;
#[cfg(not(feature = "chat-template"))]
mod no_chat_template;
mod tokenizer;

#[cfg(feature = "chat-template")]
pub(crate) use chat_template::Template;
pub(crate) use detokenizer::Output;
#[cfg(not(feature = "chat-template"))]
pub(crate) use no_chat_template::Template;
pub(crate) use tokenizer::{
    check_size, detokenize, is_textless, special_texts, token_text, tokenize, tokenize_prompt,
    tokenize_segments, tokenize_whole,
};
