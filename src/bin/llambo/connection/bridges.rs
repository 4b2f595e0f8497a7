//! The bridges that a command asks, and how to connect to them.

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::address::Address;
use super::stream::{Connection, silence_text};
use crate::failure::Failure;
use crate::output;

/// One or more bridges, and what it takes to reach them.
#[derive(Clone, Default)]
pub struct Bridges {
    /// Where they listen.
    pub addresses: Vec<Address>,
    /// How long one may be silent; `None` is without end.
    pub timeout: Option<Duration>,
    /// Users whose sockets are trusted, besides root and the caller.
    pub trusted: Vec<u32>,
    /// The token that each is sent first.
    pub token: Option<String>,
}

impl Bridges {
    /// Connects to the bridge that a command asks: of several, to the first that answers and has
    /// a model, or else to one that has none, whose error reply says so.
    pub fn connect(&self) -> Result<Connection, Failure> {
        if let [only] = self.addresses.as_slice() {
            return self.connect_to(only);
        }
        let (sender, outcomes) = mpsc::channel();
        for address in self.addresses.clone() {
            let (bridges, sender) = (self.clone(), sender.clone());
            // A bridge that serves another client keeps only its own thread waiting.
            thread::spawn(move || sender.send(bridges.connect_to_free(&address)));
        }
        drop(sender);
        let mut spare = None;
        let mut failures = Vec::new();
        for outcome in outcomes {
            match outcome {
                Ok((connection, true)) => return Ok(connection),
                Ok((connection, false)) => spare = Some(connection),
                Err(failure) => failures.push(failure),
            }
        }
        spare.ok_or_else(|| {
            for failure in &failures {
                output::report(&failure.to_string());
            }
            let worst = failures.iter().map(Failure::status).max();
            Failure::Reported(worst.unwrap_or_default())
        })
    }

    /// Connects to a bridge, waits until it is free, and asks whether it has a model.
    fn connect_to_free(&self, address: &Address) -> Result<(Connection, bool), Failure> {
        let mut connection = self.connect_to(address)?;
        let info = connection.quick("INFO")?.into_result()?;
        Ok((connection, info.has_model()))
    }

    /// Connects to a bridge, after checking who owns its socket.
    pub fn connect_to(&self, address: &Address) -> Result<Connection, Failure> {
        address.check_owner(&self.trusted)?;
        let stream = connect(address, self.timeout)?;
        Connection::new(stream, address, self.timeout, self.token.as_deref())
    }
}

/// Connects within the time allowed. connect(2) blocks while the backlog of a Unix socket is
/// full and has no time limit of its own, so it is done in a thread.
fn connect(address: &Address, timeout: Option<Duration>) -> Result<UnixStream, Failure> {
    let attempt = {
        let address = address.clone();
        move || match &address {
            Address::Unix(path) => UnixStream::connect(path),
            Address::Tcp(place) => TcpStream::connect(place.as_str()).and_then(|stream| {
                stream.set_nodelay(true)?;
                Ok(UnixStream::from(OwnedFd::from(stream)))
            }),
        }
    };
    let outcome = match timeout {
        None => attempt(),
        Some(timeout) => {
            let (sender, receiver) = mpsc::channel();
            thread::spawn(move || sender.send(attempt()));
            match receiver.recv_timeout(timeout) {
                Ok(outcome) => outcome,
                Err(_) => return Err(Failure::Silence(silence_text(address, Some(timeout)))),
            }
        }
    };
    outcome.map_err(|error| address.failure(&error))
}
