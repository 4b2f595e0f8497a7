//! Framing: cuts the bytes that a client sends into requests, by line or by netstring.

use crate::shared::failure::{Code, Failure};

/// Digits that the length of a netstring may have: enough for any limit that can be set.
const NETSTRING_DIGITS: usize = 10;

/// The blanks between a verb and its argument.
const BLANKS: [char; 2] = [' ', '\t'];

/// A request.
#[derive(Debug, PartialEq)]
pub struct Request {
    text: String,
    /// Whether it came as a netstring, not as a line.
    netstring: bool,
}

impl Request {
    /// The verb, and the argument or an empty text. In a line any number of blanks separates the
    /// two; in a netstring exactly one does, so that the argument can begin with another.
    pub fn split(&self) -> (&str, &str) {
        let (verb, rest) = self.text.split_once(BLANKS).unwrap_or((&self.text, ""));
        if self.netstring {
            (verb, rest)
        } else {
            (verb, rest.trim_start_matches(BLANKS))
        }
    }
}

/// One request as it was framed.
#[derive(Debug, PartialEq)]
pub enum Framed {
    /// Verb and argument.
    Request(Request),
    /// Something that is not a request. The stream goes on after it.
    Rejected(Failure),
    /// Something after which nothing can be made out any more.
    Broken(Failure),
}

/// What is being skipped because it was too long to be kept.
#[derive(Clone, Copy)]
enum Skip {
    Nothing,
    /// All up to the next LF.
    Line,
    /// This many bytes of a netstring, then its comma.
    Netstring(usize),
}

/// Collects bytes and gives out requests.
pub struct Framer {
    buffer: Vec<u8>,
    /// Where in the buffer the next request starts.
    start: usize,
    /// Bytes after `start` that are known to hold no LF, so that a long line is searched once.
    searched: usize,
    skip: Skip,
    /// Longest request, in bytes, without what frames it.
    limit: usize,
}

impl Framer {
    /// A framer for requests of up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            searched: 0,
            skip: Skip::Nothing,
            limit,
        }
    }

    /// Takes bytes in. They are held until [`next`](Self::next) has given out what they hold.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start == self.buffer.len() {
            // What one long request took is given back: most are short.
            self.buffer = Vec::new();
            self.start = 0;
        } else if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next request, or `None` if it needs more bytes. At the end of the input, a last line
    /// without LF counts as one.
    pub fn next(&mut self, at_end: bool) -> Option<Framed> {
        loop {
            match self.skip {
                Skip::Line => self.skip_line()?,
                Skip::Netstring(left) => match self.skip_netstring(left)? {
                    Ok(()) => (),
                    Err(broken) => return Some(broken),
                },
                Skip::Nothing => match self.buffer[self.start..].first()? {
                    b'\n' => self.advance(1),
                    b'\r' if self.buffer.get(self.start + 1) == Some(&b'\n') => self.advance(2),
                    b'\r' if self.start + 1 == self.buffer.len() && at_end => self.advance(1),
                    byte if byte.is_ascii_digit() => return self.netstring(at_end),
                    _ => return self.line(at_end),
                },
            }
        }
    }

    fn advance(&mut self, count: usize) {
        self.start += count;
        self.searched = 0;
    }

    fn line(&mut self, at_end: bool) -> Option<Framed> {
        let pending = &self.buffer[self.start..];
        let newline = pending[self.searched..].iter().position(|&b| b == b'\n');
        let (line, used) = match newline {
            Some(at) => {
                let end = self.searched + at;
                (&pending[..end], end + 1)
            }
            None if at_end => (pending, pending.len()),
            None => {
                self.searched = pending.len();
                // One more is held back: it may be the CR before an LF to come.
                let fits = pending.len() <= self.limit
                    || (pending.len() == self.limit + 1 && pending.ends_with(b"\r"));
                if fits {
                    return None;
                }
                self.skip = Skip::Line;
                return Some(self.too_long());
            }
        };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let framed = if line.len() > self.limit {
            self.too_long()
        } else {
            request(line, false)
        };
        self.advance(used);
        Some(framed)
    }

    fn netstring(&mut self, at_end: bool) -> Option<Framed> {
        let pending = &self.buffer[self.start..];
        let digits = pending.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits > NETSTRING_DIGITS {
            return Some(broken("its length has more than 10 digits"));
        }
        match pending.get(digits) {
            None if at_end => return Some(broken("it ends before its \":\"")),
            None => return None,
            Some(b':') => (),
            Some(_) => return Some(broken("no \":\" follows its length")),
        }
        if digits > 1 && pending[0] == b'0' {
            return Some(broken("its length starts with 0"));
        }
        let length = pending[..digits]
            .iter()
            .fold(0usize, |sum, digit| sum * 10 + usize::from(digit - b'0'));
        if length > self.limit {
            self.advance(digits + 1);
            self.skip = Skip::Netstring(length);
            return Some(self.too_long());
        }
        let content = digits + 1;
        match pending.get(content + length) {
            None if at_end => Some(broken("it ends before its last byte")),
            None => None,
            Some(b',') if length == 0 => {
                self.advance(content + 1);
                Some(Framed::Rejected(Failure::bad_request("Empty request")))
            }
            Some(b',') => {
                let framed = request(&pending[content..content + length], true);
                self.advance(content + length + 1);
                Some(framed)
            }
            Some(_) => Some(broken("no \",\" follows its last byte")),
        }
    }

    fn skip_line(&mut self) -> Option<()> {
        let pending = &self.buffer[self.start..];
        match pending.iter().position(|&b| b == b'\n') {
            Some(at) => {
                self.advance(at + 1);
                self.skip = Skip::Nothing;
                Some(())
            }
            None => {
                self.advance(pending.len());
                None
            }
        }
    }

    fn skip_netstring(&mut self, left: usize) -> Option<Result<(), Framed>> {
        let here = left.min(self.buffer.len() - self.start);
        self.advance(here);
        self.skip = Skip::Netstring(left - here);
        if left > here {
            return None;
        }
        let comma = *self.buffer.get(self.start)?;
        self.advance(1);
        self.skip = Skip::Nothing;
        if comma == b',' {
            Some(Ok(()))
        } else {
            Some(Err(broken("no \",\" follows its last byte")))
        }
    }

    fn too_long(&self) -> Framed {
        Framed::Rejected(Failure::new(
            Code::TooLong,
            format!("Request longer than {} bytes", self.limit),
        ))
    }
}

fn broken(reason: &str) -> Framed {
    Framed::Broken(Failure::bad_request(format!(
        "Malformed netstring: {reason}; expected LEN:BYTES,"
    )))
}

fn request(bytes: &[u8], netstring: bool) -> Framed {
    match std::str::from_utf8(bytes) {
        Ok(text) => Framed::Request(Request {
            text: text.to_string(),
            netstring,
        }),
        Err(error) => {
            let at = error.valid_up_to();
            Framed::Rejected(Failure::bad_request(format!(
                "Request is not valid UTF-8: byte 0x{:02x} at offset {at}",
                bytes[at]
            )))
        }
    }
}

#[cfg(test)]
mod tests;
