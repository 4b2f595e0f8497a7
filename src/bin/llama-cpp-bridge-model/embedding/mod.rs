//! Embeddings: a context of their own, and the jobs for it.

pub(crate) mod embedder;
pub(crate) mod jobs;
