//! The wire between the bridge and the model process: what is written is read back the same, and in
//! lines that are short enough; whatever else is read makes no more of itself than it is.

use std::io::Write;
use std::os::unix::net::UnixStream;

use llama_cpp_bridge::shared::link::{Link, Received};
use llama_cpp_bridge::shared::message::{Answer, FromModel, Part, ToModel};
use llama_cpp_bridge::shared::parts::{self, LONGEST_MESSAGE, Parts};
use llama_cpp_bridge::shared::wire::Message;

use super::{Draw, messages};

/// Bytes that may be kept of each byte of a line: a number of 8 takes 2, and a list grows to twice
/// what it needs.
const KEPT: usize = 8;

/// Bytes that any message may keep.
const KEPT_ALWAYS: usize = 1024;

/// The first byte chooses: messages that are made of the rest, or the rest as lines.
pub(crate) fn check(input: &[u8]) {
    let mut draw = Draw::new(input);
    match draw.below(4) {
        0 => same_again(&messages::to_model(&mut draw)),
        1 => same_again(&messages::from_model(&mut draw)),
        2 => in_parts(messages::answer(&mut draw)),
        _ => received(draw.byte(), draw.rest()),
    }
}

/// Whether a message is read as it was written.
fn same_again<M: Message + std::fmt::Debug>(message: &M) {
    let line = message.write();
    assert!(!line.contains('\n'), "more than a line: {line}");
    let again = M::read(&line).unwrap_or_else(|| panic!("not a message: {line}"));
    assert_eq!(format!("{again:?}"), format!("{message:?}"));
}

/// Whether an answer comes in messages that are short enough, and is whole after them.
fn in_parts(answer: Answer) {
    let before = format!("{answer:?}");
    let (list, end) = parts::split(answer);
    let mut parts = Parts::default();
    for part in list {
        let message = FromModel::Part(u64::MAX, part);
        let line = message.write();
        assert!(line.len() <= LONGEST_MESSAGE, "{} bytes", line.len());
        match FromModel::read(&line) {
            Some(FromModel::Part(_, part)) => parts.push(part),
            other => panic!("a part became {other:?}"),
        }
    }
    let line = FromModel::Answer(u64::MAX, Ok(end)).write();
    assert!(line.len() <= LONGEST_MESSAGE, "{} bytes", line.len());
    match FromModel::read(&line) {
        Some(FromModel::Answer(_, Ok(end))) => {
            assert_eq!(format!("{:?}", parts.complete(end)), before);
        }
        other => panic!("an answer became {other:?}"),
    }
}

/// Whether bytes are received as the messages that their lines are, however they come, up to the
/// first that is none or too long.
fn received(seed: u8, bytes: &[u8]) {
    let limit = [usize::MAX, 20, 100][usize::from(seed) % 3];
    let mut expected = Vec::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let whole = line.strip_suffix(b"\n");
        let text = std::str::from_utf8(whole.unwrap_or(line)).ok();
        if whole.unwrap_or(line).len() > limit {
            expected.push("refused".to_string());
            break;
        }
        let Some(text) = whole.map(|_| text) else {
            break;
        };
        let message = text.and_then(taken);
        expected.push(message.clone().unwrap_or("refused".to_string()));
        if message.is_none() {
            break;
        }
    }
    for step in [1, 1 + usize::from(seed) / 3, bytes.len().max(1)] {
        // What is sent has to fit the socket before anybody reads it.
        if bytes.len() / step < 1000 {
            assert_eq!(
                over_a_link(bytes.chunks(step), limit),
                expected,
                "by {step}"
            );
        }
    }
}

/// The messages that a link receives, and `refused` at the end if that is what it did.
fn over_a_link<'a>(chunks: impl Iterator<Item = &'a [u8]>, limit: usize) -> Vec<String> {
    let (mut far, near) = UnixStream::pair().expect("there are sockets");
    let mut link = Link::new(near).expect("a socket can be set not to block");
    link.set_limit(limit);
    let mut messages = Vec::new();
    for chunk in chunks {
        far.write_all(chunk).expect("there is room in a socket");
        loop {
            match link.receive::<FromModel>() {
                Ok(Received::Message(message)) => messages.push(format!("{message:?}")),
                Ok(Received::Nothing) => break,
                Ok(Received::End) => panic!("the other end is open"),
                Err(_) => {
                    messages.push("refused".to_string());
                    return messages;
                }
            }
        }
    }
    messages
}

/// The message that a line of the model process is, shown; and what must hold for it.
fn taken(line: &str) -> Option<String> {
    // The other direction must not mind either.
    if let Some(message) = ToModel::read(line) {
        same_again(&message);
    }
    let message = FromModel::read(line)?;
    let kept = kept(&message);
    let most = KEPT * line.len() + KEPT_ALWAYS;
    assert!(kept <= most, "{kept} bytes of {}", line.len());
    same_again(&message);
    Some(format!("{message:?}"))
}

/// Bytes that a message keeps, those of its own form aside.
fn kept(message: &FromModel) -> usize {
    let answer = |answer: &Answer| match answer {
        Answer::Generated(done) => done.text.capacity(),
        Answer::Embedding(embedding) => embedding.values.capacity() * size_of::<f64>(),
        Answer::Tokens(tokens) => tokens.capacity() * size_of::<i32>(),
        Answer::Text(text) => text.capacity(),
        Answer::State(_) => 0,
    };
    match message {
        FromModel::Hello(build) => build.version.capacity() + build.build.capacity(),
        FromModel::Ready(ready) => ready.description.capacity() + ready.architecture.capacity(),
        FromModel::Refused(text) | FromModel::Notice(text) => text.capacity(),
        FromModel::Busy(_) => 0,
        FromModel::Part(_, Part::Text(text)) => text.capacity(),
        FromModel::Part(_, Part::Tokens(tokens)) => tokens.capacity() * size_of::<i32>(),
        FromModel::Part(_, Part::Values(values)) => values.capacity() * size_of::<f64>(),
        FromModel::Answer(_, Ok(whole)) => answer(whole),
        FromModel::Answer(_, Err(failure)) => failure.message.capacity(),
    }
}
