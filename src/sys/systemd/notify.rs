//! Notices to the service manager: the protocol of sd_notify(3), by which systemd learns that the
//! bridge serves, that it ends, and that it is alive. Nothing here waits, and nothing is an error:
//! a manager that does not listen does not keep the bridge from serving.

use std::env;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::time::{Duration, Instant};

use crate::sys::log::{self, Level};

/// Where the manager listens: a path, or `@` and an abstract name.
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";
/// After how many microseconds without a sign of life it takes the bridge for dead.
const INTERVAL_VARIABLE: &str = "WATCHDOG_USEC";
/// Whose signs of life it waits for, if that is one process.
const PID_VARIABLE: &str = "WATCHDOG_PID";
/// All of them. The model process gets none.
pub const VARIABLES: [&str; 3] = [SOCKET_VARIABLE, INTERVAL_VARIABLE, PID_VARIABLE];

/// How long to wait where the manager's queue is full.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Tells the manager, if there is one.
pub struct Notifier {
    manager: Option<Manager>,
    /// How often it gets a sign of life.
    every: Option<Duration>,
    /// When the next one is due.
    alive_at: Instant,
    /// The change of state that was not sent yet.
    news: Option<&'static str>,
    stopping: bool,
    /// Until when the manager's queue is taken for full.
    retry_at: Option<Instant>,
}

struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Notifier {
    /// The manager that the environment names, or none.
    pub fn from_environment(now: Instant) -> Self {
        let manager = Manager::find().unwrap_or_else(|reason| {
            log::write(Level::Warning, &format!("{SOCKET_VARIABLE}: {reason}"));
            None
        });
        let every = manager.as_ref().and_then(|_| watchdog());
        Self {
            manager,
            every,
            alive_at: now,
            news: None,
            stopping: false,
            retry_at: None,
        }
    }

    /// Tells, with the next [`tick`](Self::tick), that the bridge serves.
    pub fn ready(&mut self) {
        self.news = Some("READY=1\n");
    }

    /// Tells, with the next [`tick`](Self::tick) and once, that the bridge is about to end.
    pub fn stopping(&mut self) {
        if !self.stopping {
            self.stopping = true;
            self.news = Some("STOPPING=1\n");
            // There may be no later try.
            self.retry_at = None;
        }
    }

    /// Sends what is due; returns when something will be again.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        let manager = self.manager.as_ref()?;
        if self.retry_at.is_some_and(|at| now < at) {
            return self.retry_at;
        }
        self.retry_at = None;
        let mut text = self.news.unwrap_or_default().to_string();
        let alive = self.every.filter(|_| self.alive_at <= now);
        if alive.is_some() {
            text.push_str("WATCHDOG=1\n");
        }
        if !text.is_empty() {
            let (socket, address) = (&manager.socket, &manager.address);
            let sent = socket.send_to_addr(text.as_bytes(), address);
            if sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                self.retry_at = Some(now + RETRY_PAUSE);
                return self.retry_at;
            }
            self.news = None;
        }
        if let Some(every) = alive {
            self.alive_at = now + every;
        }
        self.every.map(|_| self.alive_at)
    }
}

impl Manager {
    /// The one that the environment names.
    fn find() -> Result<Option<Self>, String> {
        let Some(name) = env::var_os(SOCKET_VARIABLE).filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let address = match name.as_bytes() {
            [b'/', ..] => SocketAddr::from_pathname(&name),
            [b'@', name @ ..] => abstract_address(name),
            _ => Err(io::Error::other("neither a path nor @ and a name")),
        };
        let address = address.map_err(|error| format!("'{}': {error}", name.to_string_lossy()))?;
        let socket = UnixDatagram::unbound().map_err(|error| error.to_string())?;
        socket
            .set_nonblocking(true)
            .map_err(|error| error.to_string())?;
        Ok(Some(Self { socket, address }))
    }
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &[u8]) -> io::Result<SocketAddr> {
    Err(io::Error::other("only Linux has abstract names"))
}

/// How often the manager wants a sign of life of this process: twice in its interval.
fn watchdog() -> Option<Duration> {
    let number = |variable| -> Option<u64> {
        let value = env::var_os(variable)?;
        let number = value.to_str().and_then(|value| value.parse().ok());
        if number.is_none() {
            let value = value.to_string_lossy();
            let message =
                format!("{variable}: '{value}' is not a number; the watchdog is not notified");
            log::write(Level::Warning, &message);
        }
        number
    };
    let interval = number(INTERVAL_VARIABLE).filter(|interval| *interval > 0)?;
    let ours = env::var_os(PID_VARIABLE).is_none()
        || number(PID_VARIABLE) == Some(u64::from(process::id()));
    // No shorter than the loop can wait for.
    ours.then(|| Duration::from_micros(interval / 2).max(Duration::from_millis(1)))
}
