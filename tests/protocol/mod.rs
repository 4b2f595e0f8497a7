//! Bytes to requests, and replies to bytes: framing, JSON, schemas.

mod framing;
mod generate;
mod json;
mod replies;
mod schema;
mod schema_refusals;
mod stream;
