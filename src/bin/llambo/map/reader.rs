//! Reads the prompts.

use std::io::{self, BufRead, Read};

use llama_cpp_bridge::shared::endpoint::MAX_REQUEST_LIMIT;

use super::answer::Answer;
use super::work::Work;
use crate::input;

/// Reads lines, or what NUL separates, until the end of standard input.
pub fn read(work: &Work) {
    let end = if work.options.null { b'\0' } else { b'\n' };
    let mut input = io::stdin().lock();
    let problem = loop {
        match read_line(&mut input, end, work) {
            Ok(true) => {}
            Ok(false) => break None,
            Err(error) => break Some(format!("cannot read standard input: {error}")),
        }
    };
    work.queue.end(problem);
}

/// Reads one line, but not beyond what is sent to a bridge; false at the end of the input.
fn read_line(input: &mut impl BufRead, end: u8, work: &Work) -> io::Result<bool> {
    let most = work.options.max_request;
    let mut bytes = Vec::new();
    // Room for the end of the line.
    input.take(most + 2).read_until(end, &mut bytes)?;
    let ended = bytes.pop_if(|byte| *byte == end).is_some();
    if !ended && bytes.is_empty() {
        return Ok(false);
    }
    if ended && !work.options.null {
        bytes.pop_if(|byte| *byte == b'\r');
    }
    if bytes.len() as u64 > most {
        let problem = input::too_long("the line", &work.options);
        work.queue.push(Err(Answer::client_error(problem)));
        if !ended && input.take(MAX_REQUEST_LIMIT).skip_until(end)? as u64 == MAX_REQUEST_LIMIT {
            return Err(io::Error::other("a line does not end within 1 GiB"));
        }
    } else if bytes.is_empty() {
        work.queue.push(Err(Answer::default()));
    } else {
        let line = input::decode(bytes)
            .map_err(|problem| Answer::client_error(format!("the line is {problem}")));
        work.queue
            .push(line.map(|line| match &work.options.template {
                Some(template) => template.replace("{}", &line),
                None => line,
            }));
    }
    Ok(true)
}
