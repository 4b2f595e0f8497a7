//! Connections to bridges: where one listens and whether it is trusted, requests out, replies in.
//!
//! Shown to others: [`Address`] and [`Bridges`], the [`Connection`] to one of them and the [`Reply`] that
//! it reads.

mod address;
mod bridges;
mod reply;
mod stream;

pub(crate) use address::{Address, own_uid};
pub(crate) use bridges::Bridges;
pub(crate) use reply::{Field, Reply, Status};
pub(crate) use stream::{Connection, encode, finish, is_end, is_timeout};
