//! The model process from outside: started, spoken to, listened to, and buried.

use std::env;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::link::{Link, Received};
use crate::log;
use crate::message::{FromModel, ToModel};
use crate::system::{self, PollFd};

/// The argument that makes this program a model process. It is not for users.
pub(crate) const MODEL_PROCESS_ARGUMENT: &str = "--model-process";

/// How often the threads of the model process look for work before they sleep, if nobody sets it.
/// With OpenMP's own 300,000 two threads beside one busy process were 10 to 100 times slower, and
/// alone no faster (SmolLM2, two processors, llama-bench).
const SPIN_COUNT: &str = "1000";

/// What sets it otherwise.
const SPIN_VARIABLES: [&str; 2] = ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"];

/// How long a process that is being sent a message may take no byte of it. One that is not at work
/// reads at once.
const SEND_PATIENCE: Duration = Duration::from_secs(10);

/// Stands before what of a schema llama.cpp could not put into a grammar.
const SCHEMA_WARNING: &str = "WARNING: JSON schema conversion was incomplete: ";

/// Whom to watch while the model works.
#[derive(Clone, Copy)]
pub(crate) struct Watch<'a> {
    /// Readable once a signal asks the bridge to stop.
    pub(crate) stop: BorrowedFd<'a>,
    /// The client that waits for the answer, if there is one.
    pub(crate) client: Option<BorrowedFd<'a>>,
}

/// Why there is no message from the model process.
#[derive(Debug, PartialEq)]
pub(crate) enum Interrupt {
    /// A signal asks the bridge to stop.
    Stop,
    /// The client is gone.
    ClientGone,
    /// The time is over.
    TimedOut,
    /// The process ended, for this reason.
    Died(String),
}

/// A running model process. It ends when this is dropped.
pub(crate) struct ModelProcess {
    child: Child,
    link: Link,
    /// Read end of its standard error.
    errors: UnixStream,
    log: log::Reader,
}

impl ModelProcess {
    /// Starts this program again as a model process.
    ///
    /// # Errors
    /// Those of socketpair(2), fork(2) and execve(2).
    pub(crate) fn start(verbose: bool) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let (errors, their_errors) = UnixStream::pair()?;
        errors.set_nonblocking(true)?;
        let mut command = Command::new(program()?);
        if SPIN_VARIABLES
            .iter()
            .all(|name| env::var_os(name).is_none())
        {
            command.env("GOMP_SPINCOUNT", SPIN_COUNT);
        }
        let child = command
            .arg0(env!("CARGO_PKG_NAME"))
            .arg(MODEL_PROCESS_ARGUMENT)
            // On an abort llama.cpp would attach a debugger where it finds one.
            .env("GGML_NO_BACKTRACE", "1")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(OwnedFd::from(their_errors)))
            // Ctrl-C is the bridge's to answer.
            .process_group(0)
            .spawn()?;
        Ok(Self {
            child,
            link: Link::new(ours)?,
            errors,
            log: log::Reader::new(verbose),
        })
    }

    /// The descriptors that tell of its end and of its messages, to be waited on while idle.
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.link.fd(), self.errors.as_fd()]
    }

    /// Sends a message. It is not given up half sent when the client leaves: the process would
    /// not understand the next one.
    ///
    /// # Errors
    /// [`Interrupt::Stop`], and [`Interrupt::Died`] if the process is gone or takes nothing.
    pub(crate) fn send(&mut self, message: ToModel, watch: Watch<'_>) -> Result<(), Interrupt> {
        self.log.forget();
        self.link.queue(message);
        let deadline = Instant::now() + SEND_PATIENCE;
        loop {
            if self.link.flush().is_err() {
                return Err(Interrupt::Died(self.bury()));
            }
            if !self.link.has_outgoing() {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let reason = format!("it took nothing for {} seconds", SEND_PATIENCE.as_secs());
                return Err(Interrupt::Died(format!("{reason}; {}", self.bury())));
            }
            let mut fds = [
                PollFd::readable(watch.stop),
                PollFd::writable(self.link.fd()),
            ];
            system::poll(&mut fds, Some(left)).map_err(|e| Interrupt::Died(e.to_string()))?;
            if fds[0].ready() {
                return Err(Interrupt::Stop);
            }
        }
    }

    /// Waits for the next message, without end or up to a deadline.
    ///
    /// # Errors
    /// What happened instead.
    pub(crate) fn receive(
        &mut self,
        watch: Watch<'_>,
        deadline: Option<Instant>,
    ) -> Result<FromModel, Interrupt> {
        loop {
            if let Some(message) = self.try_receive()? {
                return Ok(message);
            }
            let wait = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if wait == Some(Duration::ZERO) {
                return Err(Interrupt::TimedOut);
            }
            let mut fds = vec![
                PollFd::readable(watch.stop),
                PollFd::readable(self.link.fd()),
                PollFd::readable(self.errors.as_fd()),
            ];
            fds.extend(watch.client.map(PollFd::hangup));
            system::poll(&mut fds, wait).map_err(|error| Interrupt::Died(error.to_string()))?;
            if fds[0].ready() {
                return Err(Interrupt::Stop);
            }
            if fds.get(3).is_some_and(PollFd::gone) {
                return Err(Interrupt::ClientGone);
            }
        }
    }

    /// Takes in what has come, without waiting. Also keeps the process's standard error flowing.
    ///
    /// # Errors
    /// [`Interrupt::Died`] if the process is gone.
    pub(crate) fn try_receive(&mut self) -> Result<Option<FromModel>, Interrupt> {
        self.read_errors();
        loop {
            match self.link.receive::<FromModel>() {
                Ok(Received::Message(FromModel::Notice(notice))) => system::message(&notice),
                Ok(Received::Message(message)) => return Ok(Some(message)),
                Ok(Received::Nothing) => return Ok(None),
                Ok(Received::End) => return Err(Interrupt::Died(self.bury())),
                Err(error) => {
                    let reason = format!("{error}; {}", self.bury());
                    return Err(Interrupt::Died(reason));
                }
            }
        }
    }

    /// The first error that llama.cpp logged since the last [`send`](Self::send).
    pub(crate) fn first_error(&mut self) -> Option<String> {
        self.read_errors();
        self.log.first_error()
    }

    /// What the process wrote past llama.cpp's log since the last [`send`](Self::send).
    pub(crate) fn last_words(&mut self) -> Option<String> {
        self.read_errors();
        self.log.last_words()
    }

    /// What of a schema llama.cpp could not put into a grammar. It says so on standard error, past
    /// its log, and goes on.
    pub(crate) fn incomplete_schema(&mut self) -> Option<String> {
        let words = self.last_words()?;
        words.strip_prefix(SCHEMA_WARNING).map(str::to_string)
    }

    fn read_errors(&mut self) {
        let mut chunk = [0; 16 * 1024];
        while let Ok(count @ 1..) = self.errors.read(&mut chunk) {
            self.log.push(&chunk[..count]);
        }
    }

    /// Ends the process, if it has not ended by itself, and says what it died of.
    fn bury(&mut self) -> String {
        // One that still runs has closed its end of the socket, which only an end does.
        let _ = self.child.kill();
        let status = self.child.wait();
        self.read_errors();
        let end = match status {
            Ok(status) => describe(status),
            Err(error) => error.to_string(),
        };
        match self.log.cause() {
            Some(cause) => format!("{cause} ({end})"),
            None => end,
        }
    }
}

impl Drop for ModelProcess {
    fn drop(&mut self) {
        // Its memory is back when wait(2) returns, not before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This very program, even when a new version has taken its place on disk: the two processes must
/// understand each other.
fn program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") {
        return Ok(PathBuf::from("/proc/self/exe"));
    }
    env::current_exe()
}

fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("killed by {}", system::signal_name(signal)),
        (None, Some(code)) => format!("exit status {code}"),
        (None, None) => status.to_string(),
    }
}
