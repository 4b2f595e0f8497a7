//! A client that keeps a transcript and shows it when something else came than was expected.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::LIMIT;

/// Characters of a message that the transcript shows.
const SHOWN: usize = 400;

/// A connection to a bridge.
pub(crate) struct Client {
    stream: UnixStream,
    received: Vec<u8>,
    transcript: String,
}

impl Client {
    /// Connects.
    pub(crate) fn connect(socket: &Path) -> Client {
        Client::try_connect(socket).expect("a client can connect")
    }

    /// Connects, if anybody listens.
    pub(crate) fn try_connect(socket: &Path) -> std::io::Result<Client> {
        let stream = UnixStream::connect(socket)?;
        stream
            .set_write_timeout(Some(LIMIT))
            .expect("a time limit can be set");
        Ok(Client {
            stream,
            received: Vec::new(),
            transcript: String::new(),
        })
    }

    /// Sends these bytes as they are.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.note("C: ", bytes);
        if let Err(error) = self.stream.write_all(bytes) {
            self.fail(&format!("cannot send: {error}"));
        }
    }

    /// Sends a line, which must not end in LF itself.
    pub(crate) fn ask(&mut self, line: &str) {
        self.send(format!("{line}\n"));
    }

    /// Sends a line to a bridge that may have hung up.
    pub(crate) fn try_ask(&mut self, line: &str) {
        self.note("C: ", line.as_bytes());
        let _ = self.stream.write_all(format!("{line}\n").as_bytes());
    }

    /// Sends `request` as a netstring.
    pub(crate) fn ask_netstring(&mut self, request: &str) {
        self.send(format!("{}:{request},", request.len()));
    }

    /// Sends a line and expects this one back.
    pub(crate) fn exchange(&mut self, line: &str, reply: &str) {
        self.ask(line);
        self.expect(reply);
    }

    /// Loads a model.
    pub(crate) fn load(&mut self, model: &Path) {
        self.exchange(&format!("LOAD {}", model.display()), loaded());
    }

    /// Expects this line next.
    pub(crate) fn expect(&mut self, line: &str) {
        let received = self.receive();
        if received != line {
            self.fail(&format!("expected\n   {line}\nbut received\n   {received}"));
        }
    }

    /// The next line, without its LF.
    pub(crate) fn receive(&mut self) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let mut line: Vec<u8> = self.received.drain(..=end).collect();
                line.pop();
                self.note("S: ", &line);
                return match String::from_utf8(line) {
                    Ok(line) => line,
                    Err(error) => self.fail(&format!("the reply is not UTF-8: {error}")),
                };
            }
            match self.read(deadline.saturating_duration_since(Instant::now())) {
                Ok(0) => self.fail("the bridge closed the connection instead of replying"),
                Ok(_) => {}
                Err(error) => self.fail(&format!("no reply: {error}")),
            }
        }
    }

    /// The next line, or `None` if the bridge closes the connection instead.
    pub(crate) fn receive_or_end(&mut self) -> Option<String> {
        if self.received.is_empty() {
            match self.read(LIMIT) {
                Ok(0) => return None,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => self.fail(&format!("neither a reply nor the end: {error}")),
                Ok(_) => {}
            }
        }
        Some(self.receive())
    }

    /// Expects that the bridge closes the connection without another byte.
    pub(crate) fn expect_end(&mut self) {
        match self.read(LIMIT) {
            Ok(0) if self.received.is_empty() => self.transcript.push_str("S: (end)\n"),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => self.fail(&format!("expected the end: {error}")),
            Ok(_) => {
                let more = self.receive();
                self.fail(&format!("expected the end, but received\n   {more}"))
            }
        }
    }

    /// Expects that nothing has come so far, and that the connection is open.
    pub(crate) fn expect_nothing_yet(&mut self) {
        self.expect_silence(Duration::from_millis(1));
    }

    /// Expects that for this long nothing comes and the connection stays open.
    pub(crate) fn expect_silence(&mut self, time: Duration) {
        match self.read(time) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => self.fail(&format!("the connection broke: {error}")),
            Ok(0) => self.fail("the bridge closed the connection"),
            Ok(_) => {
                let early = self.receive();
                self.fail(&format!("expected nothing yet, but received\n   {early}"))
            }
        }
    }

    /// Sends no more, as `nc -N` does at the end of its input.
    pub(crate) fn half_close(&mut self) {
        self.transcript.push_str("C: (end)\n");
        self.stream
            .shutdown(Shutdown::Write)
            .expect("a connection can be half closed");
    }

    /// Writes as much of `bytes` as the bridge takes within `time`, and gives back how much.
    pub(crate) fn push(&mut self, bytes: &[u8], time: Duration) -> usize {
        self.stream
            .set_write_timeout(Some(time))
            .expect("a time limit can be set");
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let _ = writeln!(self.transcript, "C: ({sent} of {} bytes)", bytes.len());
        sent
    }

    /// Another handle of the same connection, for a thread that sends while this one reads.
    pub(crate) fn second_handle(&self) -> UnixStream {
        self.stream.try_clone().expect("a connection can be shared")
    }

    /// Goes away. (Dropping does the same; this says so.)
    pub(crate) fn vanish(self) {}

    /// Ends the test with this message and all that was said.
    pub(crate) fn fail(&self, message: &str) -> ! {
        panic!(
            "{message}\n--- transcript ---\n{}------------------",
            self.transcript
        )
    }

    fn read(&mut self, limit: Duration) -> std::io::Result<usize> {
        let limit = limit.max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(limit))?;
        let mut buffer = [0; 65536];
        let count = loop {
            match self.stream.read(&mut buffer) {
                // A process that was stopped and continued: a read with a time limit tells.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                outcome => break outcome?,
            }
        };
        self.received.extend_from_slice(&buffer[..count]);
        Ok(count)
    }

    fn note(&mut self, who: &str, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let mut shown: String = text
            .chars()
            .take(SHOWN)
            .flat_map(char::escape_debug)
            .collect();
        if text.chars().count() > SHOWN {
            let _ = write!(shown, "... ({} bytes)", bytes.len());
        }
        let _ = writeln!(self.transcript, "{who}{shown}");
    }
}

/// The reply that says only this.
pub(crate) fn ok(message: &str) -> String {
    format!(r#"{{"status":"ok","message":"{message}"}}"#)
}

/// The reply to a `LOAD` that went well.
pub(crate) fn loaded() -> &'static str {
    r#"{"status":"ok","message":"Model loaded successfully"}"#
}

/// The reply to an `INFER`, with a text that needs no escapes.
pub(crate) fn completed(text: &str) -> String {
    format!(r#"{{"status":"ok","message":"Inference completed","data":"{text}"}}"#)
}

/// An error reply, with a message that needs no escapes.
pub(crate) fn failure(code: &str, message: &str) -> String {
    format!(r#"{{"status":"error","message":"{message}","code":"{code}"}}"#)
}
