//! Whether a client has shown that it may use the bridge: AUTH. Nothing here waits.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::server::access::Access;
use llama_cpp_bridge::sys::log::{self, Level};
use llama_cpp_bridge::sys::peer::Peer;

/// What a wrong token costs, in time. The next one is not looked at before that, whoever sends it:
/// hanging up does not save the wait.
const PENALTY: Duration = Duration::from_secs(1);

/// How far one client is.
pub struct AuthState {
    access: Rc<Access>,
    authenticated: bool,
    /// When the next token is looked at.
    next: Instant,
}

/// What a token is worth.
pub enum Verdict {
    /// The bridge takes no tokens.
    NotNeeded,
    /// It is one of the bridge's.
    Valid,
    /// It is not; the client is answered then.
    Invalid(Instant),
}

impl AuthState {
    /// A client that has sent nothing yet. No token is looked at before `next`.
    pub fn new(access: &Rc<Access>, next: Instant) -> Self {
        Self {
            access: Rc::clone(access),
            authenticated: !access.needs_token(),
            next,
        }
    }

    /// Whether the client may use all verbs.
    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// When the next token is looked at.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Looks at a token, when [`next`](Self::next) has come.
    pub fn check(&mut self, token: &str, peer: Peer, now: Instant) -> Verdict {
        if !self.access.needs_token() {
            return Verdict::NotNeeded;
        }
        if self.access.knows(token) {
            self.authenticated = true;
            return Verdict::Valid;
        }
        let pid = peer.pid.map(|pid| format!(" pid={pid}"));
        let message = format!(
            "AUTH: invalid token from uid={}{}",
            peer.uid,
            pid.unwrap_or_default()
        );
        log::write(Level::Warning, &message);
        self.next = now + PENALTY;
        Verdict::Invalid(self.next)
    }
}
