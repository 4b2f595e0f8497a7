//! Framing: the same requests however the bytes are cut, and those that a reader finds which has all
//! of them at once.

use llama_cpp_bridge::protocol::framing::{Framed, Framer};
use llama_cpp_bridge::shared::failure::Code;

use super::Draw;

/// What comes out of a stream, in order.
#[derive(Debug, PartialEq)]
enum Event {
    /// A verb and its argument.
    Request(String, String),
    /// What is no request.
    Rejected(Code),
    /// Nothing follows this.
    Broken,
}

/// The first byte chooses the limit, the second how the rest is cut.
pub(crate) fn check(input: &[u8]) {
    let mut draw = Draw::new(input);
    let limit = draw.pick(&[10, 0, 1, 100, 4096]);
    let mut seed = draw.byte();
    let stream = draw.rest();
    let expected = reference(stream, limit);
    assert_eq!(framed(std::iter::once(stream), limit), expected, "whole");
    assert_eq!(framed(stream.chunks(1), limit), expected, "byte by byte");
    let mut rest = stream;
    let cuts = std::iter::from_fn(|| {
        // Empty chunks, too.
        seed = seed.wrapping_mul(37).wrapping_add(11);
        let (chunk, after) = rest.split_at(rest.len().min(usize::from(seed % 16)));
        let ended = rest.is_empty();
        rest = after;
        (!ended).then_some(chunk)
    });
    assert_eq!(framed(cuts, limit), expected, "cut");
}

/// What the framer gives out for these chunks.
fn framed<'a>(chunks: impl Iterator<Item = &'a [u8]>, limit: usize) -> Vec<Event> {
    let mut framer = Framer::new(limit);
    let mut events = Vec::new();
    let chunks = chunks.map(|chunk| (chunk, false));
    for (chunk, at_end) in chunks.chain([(&b""[..], true)]) {
        framer.push(chunk);
        while let Some(framed) = framer.next(at_end) {
            match framed {
                Framed::Request(request) => {
                    let (verb, argument) = request.split();
                    events.push(Event::Request(verb.to_string(), argument.to_string()));
                }
                Framed::Rejected(failure) => events.push(Event::Rejected(failure.code)),
                Framed::Broken(_) => {
                    events.push(Event::Broken);
                    return events;
                }
            }
        }
    }
    events
}

/// The same by the words of the protocol: slowly, and from all bytes at once.
fn reference(mut rest: &[u8], limit: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(first) = rest.first() {
        if first.is_ascii_digit() {
            match netstring(rest, limit, &mut events) {
                Some(after) => rest = after,
                None => return events,
            }
            continue;
        }
        let end = rest.iter().position(|byte| *byte == b'\n');
        let mut line = &rest[..end.unwrap_or(rest.len())];
        rest = end.map_or(&[], |end| &rest[end + 1..]);
        if line.last() == Some(&b'\r') {
            line = &line[..line.len() - 1];
        }
        if line.len() > limit {
            events.push(Event::Rejected(Code::TooLong));
        } else if !line.is_empty() {
            events.push(request(line, false));
        }
    }
    events
}

/// Reads `LEN:BYTES,`; returns what follows it, if anything can.
fn netstring<'a>(rest: &'a [u8], limit: usize, events: &mut Vec<Event>) -> Option<&'a [u8]> {
    let colon = rest.iter().position(|byte| !byte.is_ascii_digit());
    let digits = &rest[..colon.unwrap_or(rest.len())];
    let leads = digits.len() > 1 && digits[0] == b'0';
    if digits.len() > 10 || leads || colon.is_none_or(|at| rest[at] != b':') {
        events.push(Event::Broken);
        return None;
    }
    let length: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let content = &rest[digits.len() + 1..];
    let too_long = length > limit as u64;
    if too_long {
        events.push(Event::Rejected(Code::TooLong));
    }
    let length = usize::try_from(length).ok()?;
    match content.get(length) {
        Some(b',') if length == 0 && !too_long => events.push(Event::Rejected(Code::BadRequest)),
        Some(b',') if !too_long => events.push(request(&content[..length], true)),
        Some(b',') => (),
        // What is skipped may end anywhere.
        None if too_long => return None,
        _ => {
            events.push(Event::Broken);
            return None;
        }
    }
    Some(&content[length + 1..])
}

fn request(bytes: &[u8], netstring: bool) -> Event {
    let Ok(text) = String::from_utf8(bytes.to_vec()) else {
        return Event::Rejected(Code::BadRequest);
    };
    let blank = |letter: char| letter == ' ' || letter == '\t';
    let verb: String = text.chars().take_while(|c| !blank(*c)).collect();
    let mut argument: String = text.chars().skip(verb.chars().count() + 1).collect();
    while !netstring && argument.starts_with(blank) {
        argument.remove(0);
    }
    Event::Request(verb, argument)
}
