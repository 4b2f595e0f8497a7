//! A connection to one bridge: requests out, replies in, and how long a silence may last.

use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::address::Address;
use super::reply::{Reply, Status};
use crate::failure::Failure;
use crate::output;

/// A person who waits this long for the first sign of a bridge is told what is awaited.
const NOTICE_AFTER: Duration = Duration::from_secs(3);

/// An open connection.
pub struct Connection {
    /// A Unix socket, or a TCP socket under the same type: all that is done with them is the same.
    stream: UnixStream,
    /// Where it leads.
    pub address: Address,
    timeout: Option<Duration>,
    /// True until the reply to the token was read, which is sent ahead of everything.
    token_due: bool,
    /// Bytes that were received but not yet taken as lines.
    received: Vec<u8>,
    /// True until the bridge was heard or the person at the terminal was told of the wait.
    notice_due: bool,
}

impl Connection {
    /// Takes over a socket, and shows the bridge a token if there is one.
    pub(super) fn new(
        stream: UnixStream,
        address: &Address,
        timeout: Option<Duration>,
        token: Option<&str>,
    ) -> Result<Self, Failure> {
        let mut connection = Connection {
            stream,
            address: address.clone(),
            timeout,
            token_due: token.is_some(),
            received: Vec::new(),
            notice_due: io::stderr().is_terminal(),
        };
        connection
            .stream
            .set_write_timeout(timeout)
            .map_err(|error| connection.lost(&error.to_string()))?;
        if let Some(token) = token {
            connection.request("AUTH", token)?;
        }
        Ok(connection)
    }

    /// Asks what a bridge answers at once, whatever its model does: where it keeps silent, it serves
    /// somebody else.
    pub fn quick(&mut self, verb: &str) -> Result<Reply, Failure> {
        self.request(verb, "")?;
        self.reply().map_err(|failure| match failure {
            Failure::Silence(_) => Failure::Busy(format!(
                "{} is busy with another client: it accepted the connection but sent nothing for {} s",
                self.address,
                self.timeout.unwrap_or_default().as_secs_f64()
            )),
            other => other,
        })
    }

    /// Shows no notice of waiting: `map` has a line of its own.
    pub fn without_notice(mut self) -> Self {
        self.notice_due = false;
        self
    }

    /// Sends a request, as a netstring if a line could not carry its argument.
    pub fn request(&mut self, verb: &str, argument: &str) -> Result<(), Failure> {
        match self.stream.write_all(&encode(verb, argument)) {
            Ok(()) => Ok(()),
            // A bridge that closed the connection may have said why: reading tells.
            Err(error) if is_end(error.kind()) => Ok(()),
            Err(error) if is_timeout(&error) => Err(self.silence()),
            Err(error) => Err(self.lost(&error.to_string())),
        }
    }

    /// The next reply; an end of the connection instead of it is a failure.
    pub fn reply(&mut self) -> Result<Reply, Failure> {
        self.next_reply()?
            .ok_or_else(|| self.lost("it closed the connection before the answer was complete"))
    }

    /// The next reply, or none when the bridge has closed the connection. A token that the bridge
    /// does not know is a failure.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, Failure> {
        if self.token_due {
            let Some(reply) = self.any_reply()? else {
                return Ok(None);
            };
            self.token_due = false;
            match reply.into_result() {
                // An older bridge needs no token.
                Err(Failure::Bridge { code, .. }) if code == "unknown_command" => (),
                outcome => drop(outcome?),
            }
        }
        self.any_reply()
    }

    fn any_reply(&mut self) -> Result<Option<Reply>, Failure> {
        let Some(line) = self.line()? else {
            return Ok(None);
        };
        let reply = Reply::parse(line).map_err(|problem| {
            Failure::Connect(format!(
                "{} does not answer like a bridge: {problem}",
                self.address
            ))
        })?;
        Ok(Some(reply))
    }

    /// The reply that ends a request; pieces before it are given to `piece`.
    pub fn answer(
        &mut self,
        mut piece: impl FnMut(&str) -> Result<(), Failure>,
    ) -> Result<Reply, Failure> {
        loop {
            let reply = self.reply()?;
            if reply.status != Status::Partial {
                return Ok(reply);
            }
            piece(reply.text("data"))?;
        }
    }

    /// A second handle on the same socket, for a thread that sends or closes it.
    pub fn sender(&self) -> Result<UnixStream, Failure> {
        self.stream
            .try_clone()
            .map_err(|error| self.lost(&error.to_string()))
    }

    /// Where to put requests that are sent while replies are read: neither side ever waits for the
    /// other to read first.
    pub fn sending(&self) -> Result<mpsc::Sender<Vec<u8>>, Failure> {
        let (sender, requests) = mpsc::channel::<Vec<u8>>();
        let mut stream = self.sender()?;
        // A bridge at work need not read; how long it may be silent, whoever reads its replies knows.
        stream
            .set_write_timeout(None)
            .map_err(|error| self.lost(&error.to_string()))?;
        thread::spawn(move || {
            let mut requests = requests.iter();
            requests.all(|request| stream.write_all(&request).is_ok())
        });
        Ok(sender)
    }

    /// The failure of having heard nothing.
    pub fn silence(&self) -> Failure {
        Failure::Silence(silence_text(&self.address, self.timeout))
    }

    /// The failure of a connection that ended.
    pub fn lost(&self, reason: &str) -> Failure {
        Failure::Lost(format!("lost the bridge at {}: {reason}", self.address))
    }

    /// The next line without its newline, or none at the end of the connection.
    fn line(&mut self) -> Result<Option<String>, Failure> {
        let mut searched = 0;
        loop {
            let found = self.received[searched..]
                .iter()
                .position(|byte| *byte == b'\n');
            if let Some(position) = found {
                let rest = self.received.split_off(searched + position + 1);
                let mut line = std::mem::replace(&mut self.received, rest);
                line.pop();
                // The parser of replies says what is wrong with a line that is no text.
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            searched = self.received.len();
            if self.receive()? == 0 {
                return Ok(None);
            }
        }
    }

    /// Waits for bytes; 0 is the end of the connection.
    fn receive(&mut self) -> Result<usize, Failure> {
        let mut chunk = [0; 16 * 1024];
        let mut waited = Duration::ZERO;
        loop {
            let left = self.timeout.map(|timeout| timeout.saturating_sub(waited));
            let limit = match (self.notice_due, left) {
                (true, Some(left)) => Some(left.min(NOTICE_AFTER)),
                (true, None) => Some(NOTICE_AFTER),
                (false, left) => left,
            };
            self.stream
                .set_read_timeout(limit)
                .map_err(|error| self.lost(&error.to_string()))?;
            match self.stream.read(&mut chunk) {
                Ok(count) => {
                    self.notice_due = false;
                    self.received.extend_from_slice(&chunk[..count]);
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(0),
                Err(error) if is_timeout(&error) => {
                    waited += limit.unwrap_or_default();
                    if self.timeout.is_some_and(|timeout| waited >= timeout) {
                        return Err(self.silence());
                    }
                    self.notice_due = false;
                    output::tell(&format!(
                        "waiting for {}, which is working or serving another client",
                        self.address
                    ));
                }
                Err(error) => return Err(self.lost(&error.to_string())),
            }
        }
    }
}

impl Drop for Connection {
    /// Ends the connection for second handles too: a bridge then gives up what was asked of it.
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Tells a bridge that no more requests come.
pub fn finish(stream: &UnixStream) {
    // A bridge that is gone already needs no telling.
    let _ = stream.shutdown(Shutdown::Write);
}

/// A request as bytes: a line, or a netstring where the argument holds what a line cannot carry.
pub fn encode(verb: &str, argument: &str) -> Vec<u8> {
    if argument.is_empty() {
        return format!("{verb}\n").into_bytes();
    }
    // Behind the verb of a line all blanks are skipped; in a netstring only one is.
    if argument.starts_with([' ', '\t']) || argument.contains('\n') || argument.ends_with('\r') {
        let length = verb.len() + 1 + argument.len();
        return format!("{length}:{verb} {argument},").into_bytes();
    }
    format!("{verb} {argument}\n").into_bytes()
}

/// The message of a silence that lasted too long.
pub(super) fn silence_text(address: &Address, timeout: Option<Duration>) -> String {
    let seconds = timeout.unwrap_or_default().as_secs_f64();
    format!(
        "{address} sent nothing for {seconds} s: it is working, busy with another client, or stuck"
    )
}

/// Reports of a socket whose other end takes no more.
pub fn is_end(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

/// Reports of a socket whose timeout has run out: Linux says one, other systems the other.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
