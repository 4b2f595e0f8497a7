//! The server: one client after the other, and for each its requests one after the other.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::client::{Client, Input, Unsent};
use crate::command::{self, Next};
use crate::failure::{Code, Failure};
use crate::message::Generate;
use crate::options::Options;
use crate::process::Watch;
use crate::reply;
use crate::request::Framed;
use crate::slot::{Slot, Unanswered};
use crate::socket::{Claim, Socket};
use crate::system::{self, PollFd};

/// How long to wait before accepting again after it failed.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What a command can act on.
pub(crate) struct Bridge {
    pub(crate) options: Options,
    pub(crate) slot: Slot,
}

/// The client that a command is carried out for.
pub(crate) struct Session<'a> {
    client: &'a Client,
    stop: BorrowedFd<'a>,
    patience: Duration,
}

impl Session<'_> {
    /// Whom to watch while the model works.
    pub(crate) fn watch(&self) -> Watch<'_> {
        Watch {
            stop: self.stop,
            client: Some(self.client.fd()),
        }
    }

    /// Sends a piece of a text that is still being generated.
    ///
    /// # Errors
    /// Those of [`Client::send`].
    pub(crate) fn send_piece(&self, piece: &str) -> Result<(), Unsent> {
        let line = reply::partial_line(piece);
        self.client.send(&line, self.stop, self.patience)
    }
}

/// What became of a client.
#[derive(PartialEq)]
enum Served {
    /// It is done or gone; the next one, please.
    Done,
    /// The bridge is to stop.
    Stop,
}

/// What there is to do for a client.
enum Incoming {
    Framed(Framed),
    /// It sends no more, is gone, or gives way.
    End,
    Stop,
}

impl Bridge {
    /// A request with everything as the command line sets it, and yet without a prompt.
    pub(crate) fn defaults(&self) -> Generate {
        Generate {
            prompt: None,
            messages: None,
            max_tokens: self.options.max_tokens,
            sampling: self.options.sampling.clone(),
            seed: self.seed(),
            stop: Vec::new(),
            grammar: None,
            json_schema: None,
            stream: false,
            ignore_eos: false,
            cache_prompt: true,
        }
    }

    /// The seed that was set, else a random one.
    fn seed(&self) -> u32 {
        // The standard library's source of randomness.
        let drawn = || RandomState::new().build_hasher().finish() as u32;
        self.options.seed.unwrap_or_else(drawn)
    }
}

/// Serves until it is told to stop.
///
/// # Errors
/// What kept it from serving.
pub(crate) fn run(options: Options) -> Result<(), String> {
    let stop = system::catch_stop_signals().map_err(|error| format!("signals: {error}"))?;
    let mut options = options;
    if let Some(path) = &options.chat_template_file {
        let template = fs::read_to_string(path)
            .map_err(|error| format!("--chat-template-file: {}: {error}", path.display()))?;
        options.load.chat_template = Some(template);
    }
    let claim = Claim::new(&options.socket)?;
    let mut bridge = Bridge {
        slot: Slot::new(options.load.clone()),
        options,
    };
    if let Some(path) = bridge.options.model.clone() {
        let watch = Watch {
            stop: stop.as_fd(),
            client: None,
        };
        match bridge.slot.load(&path, watch) {
            Ok(()) => (),
            Err(Unanswered::Failed(failure)) => return Err(failure.message),
            Err(Unanswered::ClientGone | Unanswered::Stop) => return Ok(()),
        }
    }
    let socket = claim.bind(&bridge.options)?;
    announce(&bridge.options)?;
    while let Some(stream) = bridge.next_client(&socket, stop.as_fd())? {
        let Ok(client) = Client::new(stream, bridge.options.max_request) else {
            continue;
        };
        if bridge.serve(client, &socket, stop.as_fd())? == Served::Stop {
            break;
        }
    }
    Ok(())
}

fn announce(options: &Options) -> Result<(), String> {
    let line = format!("listening on {}\n", options.socket.display());
    let mut output = io::stdout();
    output
        .write_all(line.as_bytes())
        .and_then(|()| output.flush())
        .map_err(|error| format!("standard output: {error}"))
}

impl Bridge {
    /// Waits for the next client in the queue; `None` if the bridge is to stop.
    fn next_client(
        &mut self,
        socket: &Socket,
        stop: BorrowedFd<'_>,
    ) -> Result<Option<UnixStream>, String> {
        loop {
            match socket.listener.accept() {
                Ok((stream, _)) => return Ok(Some(stream)),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => (),
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => continue,
                    // The host is short of something; it may pass.
                    _ => {
                        system::message(&format!("accept: {error}"));
                        if self.wait(stop, &[], Some(ACCEPT_PAUSE))? {
                            return Ok(None);
                        }
                        continue;
                    }
                },
            }
            let listener = socket.listener.as_fd();
            if self.wait(stop, &[PollFd::readable(listener)], None)? {
                return Ok(None);
            }
        }
    }

    /// Answers one client until it is done, gone or has to give way.
    fn serve(
        &mut self,
        mut client: Client,
        socket: &Socket,
        stop: BorrowedFd<'_>,
    ) -> Result<Served, String> {
        let patience = self.options.idle_timeout;
        loop {
            let framed = match self.next_request(&mut client, socket, stop)? {
                Incoming::Framed(framed) => framed,
                Incoming::End => return Ok(Served::Done),
                Incoming::Stop => return Ok(Served::Stop),
            };
            let broken = matches!(framed, Framed::Broken(_));
            let (outcome, next) = match framed {
                Framed::Request(request) => {
                    let session = Session {
                        client: &client,
                        stop,
                        patience,
                    };
                    command::execute(self, &request, &session)
                }
                Framed::Rejected(failure) | Framed::Broken(failure) => {
                    (Err(failure.into()), Next::Continue)
                }
            };
            let answer = match outcome {
                Ok(reply) => Ok(reply),
                Err(Unanswered::Failed(failure)) => Err(failure),
                Err(Unanswered::ClientGone) => return Ok(Served::Done),
                Err(Unanswered::Stop) => {
                    let failure = Failure::new(Code::Internal, "The bridge is stopping");
                    client.send_at_once(&reply::line(&Err(failure)));
                    return Ok(Served::Stop);
                }
            };
            let sent = client.send(&reply::line(&answer), stop, patience);
            if next == Next::Stop || sent == Err(Unsent::Stop) {
                return Ok(Served::Stop);
            }
            if broken || sent == Err(Unsent::Lost) {
                return Ok(Served::Done);
            }
            client.served();
        }
    }

    fn next_request(
        &mut self,
        client: &mut Client,
        socket: &Socket,
        stop: BorrowedFd<'_>,
    ) -> Result<Incoming, String> {
        loop {
            if let Some(framed) = client.next() {
                return Ok(Incoming::Framed(framed));
            }
            if client.at_end() {
                return Ok(Incoming::End);
            }
            // Only when this client's time is over does it matter whether another one waits.
            let left = self.options.idle_timeout.saturating_sub(client.idle());
            let mut fds = vec![PollFd::readable(client.fd())];
            if left.is_zero() {
                fds.push(PollFd::readable(socket.listener.as_fd()));
            }
            let limit = (!left.is_zero()).then_some(left);
            if self.wait(stop, &fds, limit)? {
                return Ok(Incoming::Stop);
            }
            match client.read() {
                Input::Some => (),
                Input::Broken => return Ok(Incoming::End),
                Input::Nothing if left.is_zero() && another_waits(socket)? => {
                    return Ok(Incoming::End);
                }
                Input::Nothing => (),
            }
        }
    }

    /// Waits while nothing is under way, and keeps an eye on the model process meanwhile. Tells
    /// whether the bridge is to stop.
    fn wait(
        &mut self,
        stop: BorrowedFd<'_>,
        others: &[PollFd<'_>],
        limit: Option<Duration>,
    ) -> Result<bool, String> {
        let mut fds = vec![PollFd::readable(stop)];
        fds.extend_from_slice(others);
        if let Some(process) = self.slot.process() {
            fds.extend(process.fds().map(PollFd::readable));
        }
        system::poll(&mut fds, limit).map_err(|error| format!("poll: {error}"))?;
        let stopped = fds[0].ready();
        self.slot.look_after();
        Ok(stopped)
    }
}

fn another_waits(socket: &Socket) -> Result<bool, String> {
    let mut fds = [PollFd::readable(socket.listener.as_fd())];
    let now = Some(Duration::ZERO);
    system::poll(&mut fds, now).map_err(|error| format!("poll: {error}"))?;
    Ok(fds[0].ready())
}
