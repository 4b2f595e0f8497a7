//! Embeddings: a context of their own, and the jobs for it.

pub(crate) mod embed_queue;
pub(crate) mod embedder;
