//! The model process from outside: started, written to, read from, and reaped. Nothing here
//! waits.

use std::env;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};

use super::model_log;
use super::model_program::ModelProgram;
use llama_cpp_bridge::shared::build::Build;
use llama_cpp_bridge::shared::link::{Link, Received};
use llama_cpp_bridge::shared::message::{FromModel, ToModel};
use llama_cpp_bridge::shared::settings::SPIN_VARIABLES;
use llama_cpp_bridge::sys::exec::command_of_file;
use llama_cpp_bridge::sys::log::{self, Level};
use llama_cpp_bridge::sys::memory::Kills;
use llama_cpp_bridge::sys::poll::PollFd;
use llama_cpp_bridge::sys::signals;
use llama_cpp_bridge::sys::systemd::activation;
use llama_cpp_bridge::sys::systemd::notify;

/// How often the threads of the model process look for work before they sleep, if nobody sets it,
/// and it cannot be changed while they run. With OpenMP's own 300,000 two threads beside one busy
/// process were 10 to 100 times slower, and alone no faster (SmolLM2, two processors, llama-bench).
const SPIN_COUNT: &str = "1000";

/// Has the C library ask for huge pages where the system leaves that to programs (glibc 2.35). With
/// weights and KV cache in them 1.1 billion parameters, repacked, were decoded 1.02 to 1.3 times as
/// quickly, and loaded in 0.3 to 0.4 s instead of 0.5; in 1.0 to 1.6 s where a virtual machine had
/// yet to get that memory from its host. The model process takes no more of them after that.
const HUGE_PAGES: &str = "glibc.malloc.hugetlb=1";

/// What sets it, with all else that can be tuned there.
const TUNABLES: &str = "GLIBC_TUNABLES";

/// Whether the model program can set how long its threads look for work: see its openmp.rs.
const SPINS_BY_ITSELF: bool = cfg!(openmp_in_hand);

/// What its environment has otherwise than that of the bridge: a value, or `None` for nothing.
fn environment() -> Vec<(&'static str, Option<&'static str>)> {
    // On an abort llama.cpp would attach a debugger where it finds one.
    let mut changes = vec![("GGML_NO_BACKTRACE", Some("1"))];
    let is_set = |name: &&str| env::var_os(name).is_some();
    if !SPINS_BY_ITSELF && !SPIN_VARIABLES.iter().any(is_set) {
        changes.push(("GOMP_SPINCOUNT", Some(SPIN_COUNT)));
    }
    if !is_set(&TUNABLES) {
        changes.push((TUNABLES, Some(HUGE_PAGES)));
    }
    let services = [activation::VARIABLES, notify::VARIABLES].concat();
    changes.extend(services.into_iter().map(|name| (name, None)));
    changes
}

/// Longest greeting, in bytes: some ten times that of a model program.
const GREETING_BYTES: usize = 1024;

/// A model process, running or ending. It is killed when this is dropped.
pub struct ModelProcess {
    child: Child,
    /// The path of its program.
    program: String,
    /// It has identified itself as of the same build.
    greeted: bool,
    link: Link,
    /// Read end of its standard error; `None` once that is closed.
    errors: Option<UnixStream>,
    log: model_log::Reader,
    /// It was told to end, or has closed its end of the socket, which it does only when it ends.
    ending: bool,
    /// What the kernel had done when it was started.
    kills: Kills,
    /// What is wrong with what it sent.
    broken: Option<String>,
}

impl ModelProcess {
    /// Starts the model program.
    ///
    /// # Errors
    /// Those of socketpair(2), fork(2) and execve(2).
    pub fn start(program: &ModelProgram, verbose: bool) -> io::Result<Self> {
        program.expect_unchanged()?;
        let (ours, theirs) = UnixStream::pair()?;
        let (errors, their_errors) = UnixStream::pair()?;
        errors.set_nonblocking(true)?;
        let (path, file) = (program.path(), &program.file);
        let child = command_of_file(file, path, program.is_script, &environment())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(OwnedFd::from(their_errors)))
            // Ctrl-C is the bridge's to answer.
            .process_group(0)
            .spawn()?;
        let mut process = Self {
            child,
            program: path.display().to_string(),
            greeted: false,
            link: Link::new(ours)?,
            errors: Some(errors),
            log: model_log::Reader::new(verbose),
            ending: false,
            kills: Kills::now(),
            broken: None,
        };
        process.link.set_limit(GREETING_BYTES);
        process.send(ToModel::Hello(Build::this()));
        Ok(process)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What to wait for: its messages, room for those to it, and its standard error. An ending
    /// process is reported by SIGCHLD.
    pub fn polls(&self) -> impl Iterator<Item = PollFd<'_>> {
        let link = (!self.ending)
            .then(|| PollFd::readable(self.link.fd()).or_writable(self.link.has_outgoing()));
        let errors = self.errors.as_ref().filter(|_| !self.ending);
        let errors = errors.map(|errors| PollFd::readable(errors.as_fd()));
        link.into_iter().chain(errors)
    }

    /// Sends a message, as far as there is room for it now.
    pub fn send(&mut self, message: ToModel) {
        self.link.queue(message);
        // What keeps it from being written is found out by reading, after what it still sent.
        let _ = self.link.flush();
    }

    /// Takes in what has come, and keeps what goes to it and its standard error flowing.
    pub fn pump(&mut self) -> Vec<FromModel> {
        let mut messages = Vec::new();
        self.read_errors();
        while !self.ending {
            match self.link.receive() {
                Ok(Received::Message(FromModel::Hello(build))) if !self.greeted => {
                    self.greet(&build);
                }
                Ok(Received::Message(_)) if !self.greeted => self.reject_foreign(),
                Ok(Received::Message(FromModel::Notice(notice))) => {
                    log::write(Level::Warning, &notice);
                }
                Ok(Received::Message(message)) => messages.push(message),
                Ok(Received::Nothing) => break,
                // It ends, or is ended when its time to greet is over: what it dies of is the
                // better reason.
                Ok(Received::End) if !self.greeted => self.ending = true,
                Ok(Received::End) => self.end(),
                Err(_) if !self.greeted => self.reject_foreign(),
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

    /// Takes note of which build the program is of, and ends one of another.
    fn greet(&mut self, theirs: &Build) {
        let ours = Build::this();
        if *theirs == ours {
            self.greeted = true;
            self.link.set_limit(usize::MAX);
            return;
        }
        let (theirs, ours) = (theirs.describe("is"), ours.describe("this bridge is"));
        self.broken = Some(format!(
            "{} {theirs}, {ours}; install both from the same build and restart the bridge",
            self.program
        ));
        self.end();
    }

    /// Ends a program that does not identify itself.
    fn reject_foreign(&mut self) {
        self.broken = Some(format!("{} is not a llama-cpp-bridge-model", self.program));
        self.end();
    }

    /// Whether it has identified itself as of the bridge's own build.
    pub fn greeted(&self) -> bool {
        self.greeted
    }

    /// The path of its program.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Has it end. Its memory is back once it is [reaped](Self::try_reap).
    pub fn end(&mut self) {
        self.ending = true;
        // It fails only for a process that is reaped already.
        let _ = self.child.kill();
    }

    /// Whether it was told to end, or has ended.
    pub fn ending(&self) -> bool {
        self.ending
    }

    /// What it died of, once it is gone; `None` while it is still there.
    pub fn try_reap(&mut self) -> Option<String> {
        if !self.ending {
            return None;
        }
        let mut signalled = false;
        let end = match self.child.try_wait() {
            Ok(None) => return None,
            Ok(Some(status)) => {
                signalled = status.signal().is_some();
                self.describe(status)
            }
            Err(error) => error.to_string(),
        };
        self.read_errors();
        if let Some(broken) = &self.broken {
            // The bridge itself has ended it.
            return Some(broken.clone());
        }
        let program = &self.program;
        Some(match self.log.cause() {
            Some(cause) if self.greeted => format!("{cause} ({end})"),
            Some(cause) => format!("{program}: {cause} ({end})"),
            None if self.greeted || signalled => end,
            None => format!("{program} is not a llama-cpp-bridge-model ({end})"),
        })
    }

    fn describe(&self, status: ExitStatus) -> String {
        match (status.signal(), status.code()) {
            (Some(signal), _) => {
                let killed = format!("killed by {}", signals::name(signal));
                match self.kills.cause().filter(|_| signal == libc::SIGKILL) {
                    Some(cause) => format!("{killed}, {cause}"),
                    None if signal == libc::SIGILL => {
                        let program = &self.program;
                        format!("{killed}: {program} may be built for a newer processor than this")
                    }
                    None => killed,
                }
            }
            (None, Some(code)) => format!("exit status {code}"),
            (None, None) => status.to_string(),
        }
    }

    /// Forgets what its log said so far, so that it is not taken for the reason of a later death.
    pub fn forget_log(&mut self) {
        self.log.forget();
    }

    /// The first error that llama.cpp logged since [`forget_log`](Self::forget_log); `None` of a
    /// program that is not the model program, or broke the rules of the wire.
    pub fn first_error(&mut self) -> Option<String> {
        self.read_errors();
        let trusted = self.greeted && self.broken.is_none();
        self.log.first_error().filter(|_| trusted)
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
        // Only the end of the bridge drops one that is not reaped yet.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
