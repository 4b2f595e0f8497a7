//! The signals that the bridge acts on, and the names of those that a process dies of.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use crate::sys;

/// The signals that end the bridge, with their names.
const STOP_SIGNALS: [(libc::c_int, &str); 3] = [
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGINT, "SIGINT"),
    (libc::SIGHUP, "SIGHUP"),
];

/// The signals that the bridge acts on, SIGTERM, SIGINT, SIGHUP and SIGCHLD, as something that can
/// be waited for along with the sockets.
pub struct Signals {
    reader: UnixStream,
}

impl Signals {
    /// Catches them from now on. To be called once, before any other process is started.
    ///
    /// Of what the program was started with, only an ignored SIGHUP stays, as nohup(1) sets it,
    /// for the model process too. A blocked signal would be kept from the handler, and with
    /// SIGCHLD ignored nobody could tell what the model process died of.
    ///
    /// # Errors
    /// Those of socketpair(2) and sigaction(2).
    pub fn catch() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        sys::signal_handler::signals_to(writer);
        for (signal, _) in STOP_SIGNALS {
            if signal != libc::SIGHUP || !sys::signal_handler::is_ignored(signal)? {
                sys::signal_handler::catch_signal(signal)?;
            }
        }
        sys::signal_handler::catch_signal(libc::SIGCHLD)?;
        // A log that has reached the limit of files is one that cannot be written, no reason to end.
        sys::signal_handler::ignore_signal(libc::SIGXFSZ)?;
        // After the handlers: a signal that waited for this stops the bridge in an orderly way.
        sys::signal_handler::unblock_signals()?;
        Ok(Self { reader })
    }

    /// Readable when a signal has come.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    /// Takes note of the signals that have come: the descriptor is readable again at the next one.
    pub fn drain(&mut self) {
        let mut bytes = [0; 64];
        while matches!(self.reader.read(&mut bytes), Ok(1..)) {}
    }

    /// Whether one of all signals so far asks to stop.
    pub fn stop_requested(&self) -> bool {
        sys::signal_handler::stop_requested()
    }
}

/// The name of a signal that a process can die of, `SIGSEGV` for instance.
pub fn name(signal: i32) -> String {
    let name = match signal {
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGILL => "SIGILL",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGSYS => "SIGSYS",
        libc::SIGXCPU => "SIGXCPU",
        other => match STOP_SIGNALS.iter().find(|(number, _)| *number == other) {
            Some((_, name)) => name,
            None => return format!("signal {other}"),
        },
    };
    name.to_string()
}
