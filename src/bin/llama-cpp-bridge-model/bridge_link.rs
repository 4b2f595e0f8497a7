//! The link to the bridge: its next message, and what is reported to it.

use std::time::{Duration, Instant};

use llama_cpp_bridge::shared::failure::Failure;
use llama_cpp_bridge::shared::link::{Link, Received};
use llama_cpp_bridge::shared::message::{Answer, BEAT, FromModel, LONG_STEP, Part, ToModel};
use llama_cpp_bridge::shared::parts;
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
        let (parts, rest) = parts::split_text(piece);
        self.parts(id, parts)?;
        if rest.is_empty() {
            return Ok(());
        }
        self.send(FromModel::Part(id, Part::Text(rest)))
    }

    /// The end of a request.
    pub fn answer(&mut self, id: u64, outcome: Result<Answer, Failure>) -> Result<(), String> {
        let outcome = match outcome {
            Ok(answer) => {
                let (parts, rest) = parts::split(answer);
                self.parts(id, parts)?;
                Ok(rest)
            }
            Err(Failure { code, message }) => Err(Failure::new(code, shortened(message))),
        };
        self.send(FromModel::Answer(id, outcome))
    }

    fn parts(&mut self, id: u64, parts: Vec<Part>) -> Result<(), String> {
        let mut parts = parts.into_iter();
        parts.try_for_each(|part| self.send(FromModel::Part(id, part)))
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
