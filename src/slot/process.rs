//! The model process from outside: started, written to, read from, and reaped. Nothing here waits,
//! and nothing that comes from it is believed before the [`Monitor`] has checked it.

use std::env;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::ending::ModelChild;
use super::fd_passing::PathAlias;
use super::model_log::ModelLog;
use super::model_program::ModelProgram;
use super::monitor::Monitor;
use llama_cpp_bridge::shared::build::Build;
use llama_cpp_bridge::shared::link::{Link, Received};
use llama_cpp_bridge::shared::message::{FromModel, ToModel};
use llama_cpp_bridge::shared::settings::SPIN_VARIABLES;
use llama_cpp_bridge::sys::exec::command_of_file;
use llama_cpp_bridge::sys::log::{self, Level};
use llama_cpp_bridge::sys::memory::Kills;
use llama_cpp_bridge::sys::poll::PollFd;
use llama_cpp_bridge::sys::signals;
use llama_cpp_bridge::sys::socket::inline_out_of_band;
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

/// Bytes of messages that are read in one turn of the loop.
const TURN_BYTES: usize = 256 * 1024;

/// Bytes that are read of a process that is gone: more than its socket can hold.
const LAST_BYTES: usize = 1 << 20;

/// How long a process that has closed its end of the socket, which it does only as it ends, may take
/// to be gone. What it died of is known then.
const CLOSED_LIMIT: Duration = Duration::from_secs(1);

/// A model process. It is killed when this is dropped.
pub struct ModelProcess {
    child: ModelChild,
    /// The path of its program.
    program: String,
    monitor: Monitor,
    link: Link,
    log: ModelLog,
    /// When it closed its end of the socket.
    closed: Option<Instant>,
    /// What the kernel had done when it was started.
    kills: Kills,
    /// Why nothing more is expected of it.
    end: Option<End>,
}

/// Why a process is not listened to any more.
struct End {
    reason: String,
    /// It broke the rules of the wire, or is not the model program.
    broken: bool,
}

impl ModelProcess {
    /// Starts the model program, for a model that it knows by an alias.
    ///
    /// # Errors
    /// Those of socketpair(2), fork(2) and execve(2).
    pub fn start(program: &ModelProgram, alias: PathAlias, verbose: bool) -> io::Result<Self> {
        program.expect_unchanged()?;
        let (ours, theirs) = UnixStream::pair()?;
        let (errors, their_errors) = UnixStream::pair()?;
        for end in [&ours, &errors] {
            inline_out_of_band(end.as_fd())?;
        }
        let (path, file) = (program.path(), &program.file);
        let child = command_of_file(file, path, program.is_script, &environment())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(OwnedFd::from(their_errors)))
            // Ctrl-C is the bridge's to answer.
            .process_group(0)
            .spawn()?;
        let mut process = Self {
            child: ModelChild::new(child),
            program: path.display().to_string(),
            monitor: Monitor::new(),
            link: Link::new(ours)?,
            log: ModelLog::new(errors, alias, verbose)?,
            closed: None,
            kills: Kills::now(),
            end: None,
        };
        process.send(ToModel::Hello(Build::this()));
        Ok(process)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// What to wait for: its messages, room for those to it, and its standard error. The end of one
    /// that has closed its socket is reported by SIGCHLD.
    pub fn polls(&self) -> impl Iterator<Item = PollFd<'_>> {
        let open = self.closed.is_none() && self.end.is_none();
        let link =
            open.then(|| PollFd::readable(self.link.fd()).or_writable(self.link.has_outgoing()));
        let log = self.log.poll().filter(|_| open);
        link.into_iter().chain(log)
    }

    /// Sends a message, as far as there is room for it now.
    pub fn send(&mut self, message: ToModel) {
        self.monitor.sent(&message, Instant::now());
        self.link.queue(message);
        // What keeps it from being written is found out by reading, after what it still sent.
        let _ = self.link.flush();
    }

    /// Takes in what has come, if that is `readable`, and its end, if a child has `ended`; keeps what
    /// goes to it and its standard error flowing. All that it has sent counts before its end does.
    pub fn receive(&mut self, now: Instant, readable: bool, ended: bool) -> Vec<FromModel> {
        let mut messages = Vec::new();
        if self.end.is_some() {
            return messages;
        }
        let status = match ended || self.closed.is_some() {
            true => self.child.try_reap().transpose(),
            false => None,
        };
        let last = status.is_some();
        if readable || last {
            self.log.read(now);
            self.link.allow(if last { LAST_BYTES } else { TURN_BYTES });
            self.pump(now, &mut messages);
        }
        if let Some(status) = status.filter(|_| self.end.is_none()) {
            let reason = self.died(status, now);
            let broken = false;
            self.end = Some(End { reason, broken });
        }
        messages
    }

    fn pump(&mut self, now: Instant, messages: &mut Vec<FromModel>) {
        while self.closed.is_none() && self.end.is_none() {
            self.link.set_limit(self.monitor.longest_message());
            match self.link.receive() {
                Ok(Received::Message(message)) => {
                    match self.monitor.check(&message, Instant::now()) {
                        Ok(()) => messages.extend(self.take(message)),
                        Err(what) => self.reject(&what),
                    }
                }
                Ok(Received::Nothing) => {
                    // One that takes nothing more has ended, or closed its end of the socket.
                    if self.link.flush().is_err() {
                        self.closed = Some(now);
                    }
                    return;
                }
                Ok(Received::End) => self.closed = Some(now),
                Err(error) => self.reject(&error.to_string()),
            }
        }
    }

    /// Takes note of a message that concerns the process alone; others are given back.
    fn take(&mut self, message: FromModel) -> Option<FromModel> {
        match message {
            FromModel::Hello(build) => self.greet(&build),
            FromModel::Notice(notice) => log::write(Level::Warning, &notice),
            message => return Some(message),
        }
        None
    }

    /// Ends a program of another build.
    fn greet(&mut self, theirs: &Build) {
        let ours = Build::this();
        if *theirs == ours {
            return;
        }
        let (theirs, ours) = (theirs.describe("is"), ours.describe("this bridge is"));
        let program = &self.program;
        self.abandon(
            format!(
                "{program} {theirs}, {ours}; install both from the same build and restart the bridge"
            ),
            true,
        );
    }

    /// Ends a process that sent what it may not send.
    fn reject(&mut self, what: &str) {
        let reason = match self.greeted() {
            true => format!("killed for an invalid message: {what}"),
            false => self.not_a_model_program(),
        };
        self.abandon(reason, true);
    }

    fn not_a_model_program(&self) -> String {
        format!("{} is not a llama-cpp-bridge-model", self.program)
    }

    /// Whether it has identified itself as of the bridge's own build.
    pub fn greeted(&self) -> bool {
        self.monitor.greeted()
    }

    /// The path of its program.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Kills it for this reason, and listens to it no more. The first reason counts.
    pub fn kill(&mut self, reason: String) {
        self.abandon(reason, false);
    }

    fn abandon(&mut self, reason: String, broken: bool) {
        self.end.get_or_insert(End { reason, broken });
        self.child.kill();
    }

    /// Gives up one that does not end although it has closed its socket, and goes on with its log;
    /// returns when to call this again.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        let closed = self.closed.map(|since| since + CLOSED_LIMIT);
        if closed.is_some_and(|at| at <= now) {
            let greeted = self.greeted();
            let reason = match greeted {
                true => "closed its connection to the bridge and did not exit".to_string(),
                false => self.not_a_model_program(),
            };
            self.abandon(reason, !greeted);
        }
        match self.end {
            // To be taken in at once.
            Some(_) => Some(now),
            None => closed.into_iter().chain(self.log.tick(now)).min(),
        }
    }

    /// Whether nothing more is to be sent to it: it has ended, or is about to.
    pub fn ending(&self) -> bool {
        self.closed.is_some() || self.end.is_some()
    }

    /// What it died of, or was killed for; `None` while it is at work. Its memory is back once its
    /// [child](Self::into_child) is gone.
    pub fn end(&self) -> Option<&str> {
        self.end.as_ref().map(|end| end.reason.as_str())
    }

    /// Leaves what has still to be gone.
    pub fn into_child(self) -> ModelChild {
        self.child
    }

    /// What it died of.
    fn died(&mut self, status: io::Result<ExitStatus>, now: Instant) -> String {
        let mut signalled = false;
        let end = match status {
            Ok(status) => {
                signalled = status.signal().is_some();
                self.describe(status)
            }
            Err(error) => error.to_string(),
        };
        self.log.read_last(now);
        let program = &self.program;
        match self.log.cause(now) {
            Some(cause) if self.greeted() => format!("{cause} ({end})"),
            Some(cause) => format!("{program}: {cause} ({end})"),
            None if self.greeted() || signalled => end,
            None => format!("{} ({end})", self.not_a_model_program()),
        }
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
    pub fn first_error(&mut self, now: Instant) -> Option<String> {
        self.log.read_last(now);
        let trusted = self.greeted() && !self.end.as_ref().is_some_and(|end| end.broken);
        self.log.first_error().filter(|_| trusted)
    }
}
