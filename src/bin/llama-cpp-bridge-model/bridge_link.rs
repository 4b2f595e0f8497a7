//! The link to the bridge: its next message, and what is reported to it.

use std::time::{Duration, Instant};

use llama_cpp_bridge::shared::failure::Failure;
use llama_cpp_bridge::shared::link::{Link, Received};
use llama_cpp_bridge::shared::message::{Answer, BEAT, FromModel, LONG_STEP, ToModel};
use llama_cpp_bridge::shared::sentence::shortened;
use llama_cpp_bridge::sys::poll::{PollFd, poll};

/// The link to the bridge, and when something was last sent.
pub struct Reports<'link> {
    pub link: &'link mut Link,
    last: Instant,
}

impl<'link> Reports<'link> {
    /// Reports over this link.
    pub fn new(link: &'link mut Link) -> Self {
        Self {
            link,
            last: Instant::now(),
        }
    }

    /// The next piece of the text of a request; an empty one is not sent.
    ///
    /// # Errors
    /// Those of the socket, as of all that is sent here.
    pub fn piece(&mut self, id: u64, piece: String) -> Result<(), String> {
        if piece.is_empty() {
            return Ok(());
        }
        self.send(FromModel::Piece(id, piece))
    }

    /// The end of a request.
    pub fn answer(&mut self, id: u64, outcome: Result<Answer, Failure>) -> Result<(), String> {
        let outcome = outcome.map_err(|Failure { code, message }| Failure {
            code,
            message: shortened(message),
        });
        self.send(FromModel::Answer(id, outcome))
    }

    /// That a step follows which is expected to take this long: sent before a long one, and before any
    /// if nothing was sent for a while.
    pub fn step(&mut self, expected: Duration) -> Result<(), String> {
        if expected <= LONG_STEP && self.last.elapsed() + expected < BEAT {
            return Ok(());
        }
        let milliseconds = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
        self.send(FromModel::Busy(milliseconds))
    }

    fn send(&mut self, message: FromModel) -> Result<(), String> {
        self.last = Instant::now();
        self.link
            .send(message)
            .map_err(|error| format!("the bridge is gone: {error}"))
    }
}

/// The next message of the bridge. With `wait`, never [`Received::Nothing`].
pub fn next_message(link: &mut Link, wait: bool) -> Result<Received<ToModel>, String> {
    loop {
        match link.receive().map_err(|error| error.to_string())? {
            Received::Nothing if wait => {
                let mut fds = [PollFd::readable(link.fd())];
                poll(&mut fds, None).map_err(|error| error.to_string())?;
            }
            received => return Ok(received),
        }
    }
}
