//! A connection to one bridge: requests out, replies in, and how long it may be silent.

use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use llama_cpp_bridge::shared::failure::Code;

use super::address::Address;
use super::reply::{Reply, Status};
use crate::failure::Failure;
use crate::output;

/// How long to wait for the first bytes before a message on the terminal says so.
const NOTICE_AFTER: Duration = Duration::from_secs(3);

/// An open connection.
pub struct Connection {
    /// A Unix socket, or a TCP socket under the same type: they are used alike.
    stream: UnixStream,
    /// Where it leads to.
    pub address: Address,
    timeout: Option<Duration>,
    /// Whether the reply to the token, which is sent first, has still to be read.
    token_due: bool,
    /// Bytes that were received but not yet read as lines.
    received: Vec<u8>,
    /// Whether the notice of waiting may still be shown: nothing was received yet.
    notice_due: bool,
}

impl Connection {
    /// Takes over a socket, and sends the token if there is one.
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
            .map_err(|error| connection.lost(error))?;
        if let Some(token) = token {
            connection.request("AUTH", token)?;
        }
        Ok(connection)
    }

    /// Asks something that a bridge answers at once, whatever its model does: if it stays silent, it
    /// is serving another client.
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

    /// Shows no notice of waiting.
    pub fn without_notice(mut self) -> Self {
        self.notice_due = false;
        self
    }

    /// Sends a request, as a netstring if a line could not carry its argument.
    pub fn request(&mut self, verb: &str, argument: &str) -> Result<(), Failure> {
        match self.stream.write_all(&encode(verb, argument)) {
            Ok(()) => Ok(()),
            // A bridge that closed the connection may have said why; the reply is read next.
            Err(error) if is_end(error.kind()) => Ok(()),
            Err(error) if is_timeout(&error) => Err(self.silence()),
            Err(error) => Err(self.lost(error)),
        }
    }

    /// The next reply; an end of the connection instead of it is a failure.
    pub fn reply(&mut self) -> Result<Reply, Failure> {
        self.next_reply()?
            .ok_or_else(|| self.lost("it closed the connection before the answer was complete"))
    }

    /// The next reply, or none when the bridge has closed the connection. A rejected
    /// token is a failure.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, Failure> {
        if self.token_due {
            let Some(reply) = self.any_reply()? else {
                return Ok(None);
            };
            self.token_due = false;
            match reply.into_result() {
                // An older bridge does not know AUTH.
                Err(Failure::Bridge {
                    code: Some(Code::UnknownCommand),
                    ..
                }) => (),
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
        self.stream.try_clone().map_err(|error| self.lost(error))
    }

    /// A queue of requests that are sent while replies are read, so that neither side waits for the
    /// other to read first.
    pub fn sending(&self) -> Result<mpsc::Sender<Vec<u8>>, Failure> {
        let (sender, requests) = mpsc::channel::<Vec<u8>>();
        let mut stream = self.sender()?;
        // A bridge that is working need not read; the time limit is on its replies.
        stream
            .set_write_timeout(None)
            .map_err(|error| self.lost(error))?;
        thread::spawn(move || {
            let mut requests = requests.iter();
            requests.all(|request| stream.write_all(&request).is_ok())
        });
        Ok(sender)
    }

    /// The failure of a bridge that sent nothing for too long.
    pub fn silence(&self) -> Failure {
        Failure::Silence(silence_text(&self.address, self.timeout))
    }

    /// The failure of a connection that ended.
    pub fn lost(&self, reason: impl fmt::Display) -> Failure {
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
                // The parser of replies reports a line that is not text.
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
                .map_err(|error| self.lost(error))?;
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
                    output::report(&format!(
                        "waiting for {}, which is working or serving another client",
                        self.address
                    ));
                }
                Err(error) => return Err(self.lost(error)),
            }
        }
    }
}

impl Drop for Connection {
    /// Ends the connection for all handles, so that the bridge cancels what was asked of it.
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Shuts down the sending side: no more requests follow.
pub fn finish(stream: &UnixStream) {
    let _ = stream.shutdown(Shutdown::Write);
}

/// A request as bytes: a line, or a netstring if a line could not carry the argument.
pub fn encode(verb: &str, argument: &str) -> Vec<u8> {
    if argument.is_empty() {
        return format!("{verb}\n").into_bytes();
    }
    // After the verb, a line skips all blanks, a netstring only one.
    if argument.starts_with([' ', '\t']) || argument.contains('\n') || argument.ends_with('\r') {
        let length = verb.len() + 1 + argument.len();
        return format!("{length}:{verb} {argument},").into_bytes();
    }
    format!("{verb} {argument}\n").into_bytes()
}

/// The message for a bridge that sent nothing for too long.
pub(super) fn silence_text(address: &Address, timeout: Option<Duration>) -> String {
    let seconds = timeout.unwrap_or_default().as_secs_f64();
    format!(
        "{address} sent nothing for {seconds} s: it is working, busy with another client, or stuck"
    )
}

/// Whether the error means that the other end has closed the connection.
pub fn is_end(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

/// Whether the error means that the time limit of a socket has passed; systems differ in which.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
