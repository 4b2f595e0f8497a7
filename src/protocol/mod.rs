//! The wire protocol of llama-cpp-bridge(7): bytes become requests, replies become bytes. No input
//! and no output happens in here.

pub mod framing;
pub mod generate;
pub mod json;
pub mod reply;
pub mod schema;
