//! The model process from outside: started, spoken to, listened to, and buried. Nothing here
//! waits.

use std::env;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::activation;
use crate::link::{Link, Received};
use crate::log::{self, Level};
use crate::memory::Kills;
use crate::message::{FromModel, ToModel};
use crate::notify;
use crate::openmp;
use crate::poll::PollFd;
use crate::program;
use crate::signals;

/// The argument that makes this program a model process. It is not for users.
pub(crate) const MODEL_PROCESS_ARGUMENT: &str = "--model-process";

/// How often the threads of the model process look for work before they sleep, if nobody sets it,
/// and it cannot be changed while they run. With OpenMP's own 300,000 two threads beside one busy
/// process were 10 to 100 times slower, and alone no faster (SmolLM2, two processors, llama-bench).
const SPIN_COUNT: &str = "1000";

/// What sets it otherwise.
pub(crate) const SPIN_VARIABLES: [&str; 2] = ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"];

/// Has the C library ask for huge pages where the system leaves that to programs (glibc 2.35). With
/// weights and KV cache in them 1.1 billion parameters, repacked, were decoded 1.02 to 1.3 times as
/// quickly, and loaded in 0.3 to 0.4 s instead of 0.5; in 1.0 to 1.6 s where a virtual machine had
/// yet to get that memory from its host. The model process takes no more of them after that.
const HUGE_PAGES: &str = "glibc.malloc.hugetlb=1";

/// What sets it, with all else that can be tuned there.
const TUNABLES: &str = "GLIBC_TUNABLES";

/// A model process, running or ending. It is killed when this is dropped.
pub(crate) struct ModelProcess {
    child: Child,
    link: Link,
    /// Read end of its standard error; `None` once that is closed.
    errors: Option<UnixStream>,
    log: log::Reader,
    /// It was told to end, or has closed its end of the socket, which only an end does.
    ending: bool,
    /// What the kernel had done when it was started.
    kills: Kills,
    /// What is wrong with what it sent.
    broken: Option<String>,
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
        let mut command = Command::new(program::path()?);
        if !openmp::IN_HAND
            && SPIN_VARIABLES
                .iter()
                .all(|name| env::var_os(name).is_none())
        {
            command.env("GOMP_SPINCOUNT", SPIN_COUNT);
        }
        if env::var_os(TUNABLES).is_none() {
            command.env(TUNABLES, HUGE_PAGES);
        }
        for variable in [activation::VARIABLES, notify::VARIABLES].concat() {
            command.env_remove(variable);
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
            errors: Some(errors),
            log: log::Reader::new(verbose),
            ending: false,
            kills: Kills::now(),
            broken: None,
        })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What to wait for: its messages, room for those to it, and its standard error. An ending
    /// process is told of by SIGCHLD.
    pub(crate) fn polls(&self) -> impl Iterator<Item = PollFd<'_>> {
        let link = (!self.ending)
            .then(|| PollFd::readable(self.link.fd()).or_writable(self.link.has_outgoing()));
        let errors = self.errors.as_ref().filter(|_| !self.ending);
        let errors = errors.map(|errors| PollFd::readable(errors.as_fd()));
        link.into_iter().chain(errors)
    }

    /// Sends a message, as far as there is room for it now.
    pub(crate) fn send(&mut self, message: ToModel) {
        self.link.queue(message);
        // What keeps it from being written is found out by reading, behind what it still said.
        let _ = self.link.flush();
    }

    /// Takes in what has come, and keeps what goes to it and its standard error flowing.
    pub(crate) fn pump(&mut self) -> Vec<FromModel> {
        let mut messages = Vec::new();
        self.read_errors();
        while !self.ending {
            match self.link.receive() {
                Ok(Received::Message(FromModel::Notice(notice))) => {
                    log::write(Level::Warning, &notice);
                }
                Ok(Received::Message(message)) => messages.push(message),
                Ok(Received::Nothing) => break,
                Ok(Received::End) => self.end(),
                Err(error) => {
                    self.broken = Some(error.to_string());
                    self.end();
                }
            }
        }
        if !self.ending {
            let _ = self.link.flush();
        }
        messages
    }

    /// Has it end. Its memory is back once it is [`buried`](Self::buried).
    pub(crate) fn end(&mut self) {
        self.ending = true;
        // It fails only for a process that is buried already.
        let _ = self.child.kill();
    }

    /// Whether it was told to end, or has ended.
    pub(crate) fn ending(&self) -> bool {
        self.ending
    }

    /// What it died of, once it is gone; `None` while it is still there.
    pub(crate) fn buried(&mut self) -> Option<String> {
        if !self.ending {
            return None;
        }
        let end = match self.child.try_wait() {
            Ok(None) => return None,
            Ok(Some(status)) => self.describe(status),
            Err(error) => error.to_string(),
        };
        self.read_errors();
        let cause = self.broken.take().or_else(|| self.log.cause());
        Some(match cause {
            Some(cause) => format!("{cause} ({end})"),
            None => end,
        })
    }

    fn describe(&self, status: ExitStatus) -> String {
        match (status.signal(), status.code()) {
            (Some(signal), _) => {
                let killed = format!("killed by {}", signals::name(signal));
                match self.kills.verdict().filter(|_| signal == libc::SIGKILL) {
                    Some(verdict) => format!("{killed}, {verdict}"),
                    None => killed,
                }
            }
            (None, Some(code)) => format!("exit status {code}"),
            (None, None) => status.to_string(),
        }
    }

    /// Forgets what its log said so far, so that it is not taken for the reason of a later death.
    pub(crate) fn forget_log(&mut self) {
        self.log.forget();
    }

    /// The first error that llama.cpp logged since [`forget_log`](Self::forget_log).
    pub(crate) fn first_error(&mut self) -> Option<String> {
        self.read_errors();
        self.log.first_error()
    }

    fn read_errors(&mut self) {
        let mut chunk = [0; 16 * 1024];
        while let Some(errors) = &mut self.errors {
            match errors.read(&mut chunk) {
                Ok(0) => self.errors = None,
                Ok(count) => self.log.push(&chunk[..count]),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => (),
                    io::ErrorKind::WouldBlock => break,
                    _ => self.errors = None,
                },
            }
        }
    }
}

impl Drop for ModelProcess {
    fn drop(&mut self) {
        // Only the end of the bridge drops one that is not buried yet.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
