//! What all threads of `map` work with: the options, the queue, and what a line is asked as.

use super::answer::Answer;
use super::queue::Queue;
use crate::cli::{Each, Options};
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
        match self.options.each {
            Each::Infer => connection::encode("GENERATE", &self.sampling.of_prompt(line)),
            Each::Chat => {
                let turns = generate::opening(&self.options, line.to_string());
                connection::encode("GENERATE", &self.sampling.of_messages(&turns))
            }
            Each::Embed => connection::encode("EMBED", line),
        }
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
            Ok(reply) if self.options.each == Each::Embed => (reply.numbers("embedding"), None),
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
