//! Clients that are not served: each is told so, and kept for a moment, so that it can send what it
//! was about to send and read why it is for nothing. Nothing here waits.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::server::client::Client;
use llama_cpp_bridge::protocol::reply;
use llama_cpp_bridge::shared::failure::{Code, Failure};

/// How long a client gets to read the reply. One whose connection is closed while it writes may
/// never look.
const MOMENT: Duration = Duration::from_secs(1);

/// Clients that are kept at a time; a further one takes the place of the oldest.
const LIMIT: usize = 16;

/// The clients that were refused lately, and until when each is kept.
#[derive(Default)]
pub struct RejectedClients(VecDeque<(Instant, Client)>);

impl RejectedClients {
    /// Tells a client that it is not served. It can say nothing that would be heard.
    pub fn add(&mut self, mut client: Client, now: Instant) {
        let message = format!("This bridge does not serve user {}", client.peer().uid);
        let denied = Err(Failure::new(Code::Denied, message));
        client.push(&reply::line(&denied), now);
        // A new connection has room for so little.
        client.flush(now);
        client.finish();
        self.0.push_back((now + MOMENT, client));
        if self.0.len() > LIMIT {
            self.0.pop_front();
        }
    }

    /// Lets those go whose time is over.
    pub fn turn(&mut self, now: Instant) {
        self.0.retain(|(until, _)| now < *until);
    }

    /// When [`turn`](Self::turn) has to be called again.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.front().map(|(until, _)| *until)
    }
}
