//! What all threads of `map` work with: the options, the queue, and what a line is asked as.

use super::answer::Answer;
use super::queue::Queue;
use crate::cli::Options;
use crate::connection::{self, Reply};
use crate::failure::Failure;
use crate::generate::{self, Sampling};

/// What all threads share.
pub struct Work {
    pub options: Options,
    pub sampling: Sampling,
    pub queue: Queue,
}

impl Work {
    /// The request for a line.
    pub fn request(&self, line: &str) -> Vec<u8> {
        if self.options.embed {
            return connection::encode("EMBED", line);
        }
        let object = match self.options.chat {
            true => self
                .sampling
                .of_messages(&generate::opening(&self.options, line.to_string())),
            false => self.sampling.of_prompt(line),
        };
        connection::encode("GENERATE", &object)
    }

    /// The answer to a line, or the failure of a bridge that is of no use.
    pub fn answer(&self, reply: Reply) -> Result<Answer, Failure> {
        let line = self.options.json.then(|| reply.line.clone());
        let cut = !self.sampling.limited && reply.text("finish_reason") == "length";
        let outcome = match reply.into_result() {
            Err(failure) if failure.concerns_bridge() => return Err(failure),
            outcome => outcome.and_then(|reply| self.sampling.check(&reply).map(|()| reply)),
        };
        let (text, error) = match &outcome {
            Ok(reply) if self.options.embed => (reply.numbers("embedding"), None),
            Ok(reply) => (reply.text("data").to_string(), None),
            Err(failure) => (String::new(), Some((failure.to_string(), failure.status()))),
        };
        Ok(Answer {
            text: line.unwrap_or(text),
            cut: cut && error.is_none(),
            error,
        })
    }
}
