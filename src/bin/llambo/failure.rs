//! Every way in which a run can fail, and its exit status.

use std::fmt;
use std::io;

use llama_cpp_bridge::shared::failure::Code;

/// Exit status of success.
pub const DONE: u8 = 0;
/// Exit status when a bridge answered with an error, or the output could not be written.
pub const FAILED: u8 = 1;
/// Exit status of a command line or an input that cannot be used.
pub const USAGE: u8 = 2;
/// Exit status when no bridge could be connected to.
pub const NO_CONNECTION: u8 = 3;
/// Exit status when a retry may help: after a timeout, or when a model or a bridge died.
pub const RETRY: u8 = 4;
/// Exit status of an answer that was cut off before it matched its grammar or schema.
pub const CUT: u8 = 5;
/// Exit status when the bridge is serving another client.
pub const BUSY: u8 = 6;

/// Exit status of a chat that was ended by Ctrl-C, by the convention of shells.
pub const INTERRUPTED: u8 = 130;

/// The failure of a command line or an input, with a message as of `format!`.
macro_rules! usage {
    ($($message:tt)*) => {
        $crate::failure::Failure::Usage(format!($($message)*))
    };
}
pub(crate) use usage;

/// Why a run failed.
#[derive(Debug)]
pub enum Failure {
    /// The command line, or what came on standard input, cannot be used.
    Usage(String),
    /// No bridge could be reached, or what was reached is not one.
    Connect(String),
    /// The permissions of the socket keep this user from connecting.
    Forbidden(String),
    /// The socket belongs to a stranger.
    Untrusted(String),
    /// The bridge answered with an error.
    Bridge {
        /// The reply's `message`.
        message: String,
        /// The reply's `code`; `None` if it is not one of the protocol that llambo knows.
        code: Option<Code>,
    },
    /// The bridge sent nothing for `--timeout`.
    Silence(String),
    /// The bridge accepted the connection but did not answer a request that needs no work.
    Busy(String),
    /// The answer was cut off before it matched its grammar or schema.
    Cut(String),
    /// The connection ended before the answer was complete.
    Lost(String),
    /// Standard output could not be written.
    Output(io::Error),
    /// The message was already shown; only the exit status is left.
    Reported(u8),
}

/// The outcome of a run whose messages were already shown.
pub fn reported(status: u8) -> Result<(), Failure> {
    match status {
        DONE => Ok(()),
        status => Err(Failure::Reported(status)),
    }
}

impl Failure {
    /// Its exit status.
    pub fn status(&self) -> u8 {
        match self {
            Failure::Usage(_) => USAGE,
            Failure::Connect(_) | Failure::Forbidden(_) | Failure::Untrusted(_) => NO_CONNECTION,
            Failure::Bridge { .. } if self.is_transient() => RETRY,
            Failure::Bridge { .. } => FAILED,
            Failure::Silence(_) | Failure::Lost(_) => RETRY,
            Failure::Busy(_) => BUSY,
            Failure::Cut(_) => CUT,
            // A reader that has seen enough (`| head`) is not a failure.
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => DONE,
            Failure::Output(_) => FAILED,
            Failure::Reported(status) => *status,
        }
    }

    /// The message with the bridge's name, where several bridges are asked.
    pub fn of(&self, bridge: impl fmt::Display) -> String {
        match self {
            Failure::Bridge { .. } => format!("{bridge}: {self}"),
            // All others name the bridge themselves.
            _ => self.to_string(),
        }
    }

    /// Whether the bridge may soon be back, its model with it. `internal` is what a bridge that is
    /// being stopped sends to clients that wait for an answer.
    pub fn is_transient(&self) -> bool {
        match self {
            Failure::Bridge { code, .. } => {
                matches!(code, Some(Code::ModelDied | Code::Internal))
            }
            Failure::Lost(_) => true,
            _ => self.status() == NO_CONNECTION,
        }
    }

    /// Whether the bridge as a whole is of no use, so that another one should be asked.
    pub fn concerns_bridge(&self) -> bool {
        use Code::{Denied, LoadFailed, NoModel, Unauthenticated, UnknownCommand};
        match self {
            Failure::Bridge {
                code: Some(NoModel | LoadFailed | Unauthenticated | Denied | UnknownCommand),
                ..
            } => true,
            Failure::Bridge { .. } => self.is_transient(),
            _ => true,
        }
    }
}

/// The message; empty where there is nothing to report.
impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(text)
            | Failure::Connect(text)
            | Failure::Forbidden(text)
            | Failure::Untrusted(text)
            | Failure::Silence(text)
            | Failure::Busy(text)
            | Failure::Cut(text)
            | Failure::Lost(text) => out.write_str(text),
            Failure::Bridge { message, code } => {
                let hint = match code {
                    Some(Code::UnknownCommand) => " (this bridge does not support it)",
                    Some(Code::NoModel) => "\nLoad one with: llambo load PATH",
                    Some(Code::Unauthenticated) => "\nPass it with: llambo --auth-file FILE",
                    _ => "",
                };
                write!(out, "{message}{hint}")
            }
            Failure::Reported(_) => Ok(()),
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Failure::Output(error) => write!(out, "cannot write to standard output: {error}"),
        }
    }
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Self {
        Failure::Usage(error.to_string())
    }
}
