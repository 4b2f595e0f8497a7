//! Clients that are not served: each gets an error, and is kept for a moment. One whose connection
//! was closed at once would be ended by SIGPIPE as it sends its request, and never read the reason.
//! Nothing here waits.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::server::client::Client;
use llama_cpp_bridge::protocol::reply;
use llama_cpp_bridge::shared::failure::{Code, Failure};

/// How long a client gets to read the reply.
const LINGER: Duration = Duration::from_secs(1);

/// Clients that are kept at a time; a further one takes the place of the oldest.
const LIMIT: usize = 16;

/// The clients that were rejected lately, and until when each is kept.
#[derive(Default)]
pub struct RejectedClients(VecDeque<(Instant, Client)>);

impl RejectedClients {
    /// Tells a client that it is not served. What it sends is not read.
    pub fn add(&mut self, mut client: Client, now: Instant) {
        let message = format!("Access denied for uid {}", client.peer().uid);
        let denied = Err(Failure::new(Code::Denied, message));
        client.push(&reply::line(&denied), now);
        // A new connection has room for so little.
        client.flush(now);
        client.finish();
        self.0.push_back((now + LINGER, client));
        if self.0.len() > LIMIT {
            self.0.pop_front();
        }
    }

    /// Disconnects those whose time is over; returns when the next one's will be.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        self.0.retain(|(until, _)| now < *until);
        self.0.front().map(|(until, _)| *until)
    }
}
