//! The gate between a client and the verbs: AUTH opens it. Nothing here waits.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::server::access::Access;
use crate::server::command::Action;
use crate::server::pending_request::{PendingRequest, State};
use llama_cpp_bridge::protocol::reply::Reply;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::sys::log::{self, Level};
use llama_cpp_bridge::sys::peer::Peer;

/// What a wrong token costs, in time. The next one is not looked at before that, whoever sends it:
/// hanging up does not save the wait.
const PENALTY: Duration = Duration::from_secs(1);

/// The gate of one client.
pub struct AuthState {
    access: Rc<Access>,
    open: bool,
    /// When the next token is looked at.
    next: Instant,
}

impl AuthState {
    /// The gate of a client that has said nothing yet. No token is looked at before `next`.
    pub fn new(access: &Rc<Access>, next: Instant) -> Self {
        Self {
            access: Rc::clone(access),
            open: !access.needs_token(),
            next,
        }
    }

    /// Whether the client may use more than PING and AUTH.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// When the next token is looked at.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Answers an AUTH whose turn it is, if its time has come.
    pub fn answer(&mut self, head: &mut PendingRequest, peer: Peer, now: Instant) {
        if now < self.next {
            return;
        }
        match &head.state {
            State::Waiting(Action::Auth(_)) if !self.access.needs_token() => {
                head.answer(&Ok(Reply::message("No token is needed here")));
            }
            State::Waiting(Action::Auth(token)) if self.access.knows(token) => {
                self.open = true;
                head.answer(&Ok(Reply::message("Authenticated")));
            }
            State::Waiting(Action::Auth(_)) => {
                let pid = peer.pid.map(|pid| format!(", process {pid}"));
                let whose = format!("user {}{}", peer.uid, pid.unwrap_or_default());
                log::write(
                    Level::Warning,
                    &format!("AUTH: a wrong token, from {whose}"),
                );
                self.next = now + PENALTY;
                head.state = State::RejectedClients;
            }
            State::RejectedClients => {
                let message = "Wrong token: it is not in the bridge's file";
                head.answer(&Err(Failure::new(Code::Denied, message)));
            }
            _ => (),
        }
    }

    /// When [`answer`](Self::answer) has to be called again for the request whose turn it is.
    pub fn deadline(&self, head: &PendingRequest) -> Option<Instant> {
        let waits = matches!(
            head.state,
            State::Waiting(Action::Auth(_)) | State::RejectedClients
        );
        waits.then_some(self.next)
    }
}
