//! Embeddings: a context of their own, and the requests for it.
//!
//! Shown to others: [`EmbedQueue`], and whether a model can only embed.

mod embed_queue;
mod embedder;

pub(crate) use embed_queue::EmbedQueue;
pub(crate) use embedder::only_embeds;
