//! Every way in which llambo ends other than well, and the exit status of each.

use std::fmt;
use std::io;

/// Exit status of a run that did what it was asked.
pub const DONE: u8 = 0;
/// Exit status when a bridge answered with an error.
pub const REFUSED: u8 = 1;
/// Exit status of a command line or an input that cannot be used.
pub const USAGE: u8 = 2;
/// Exit status when no connection to a bridge came about.
pub const NO_CONNECTION: u8 = 3;
/// Exit status of what is worth a second try: silence, a model or a bridge that died.
pub const RETRY: u8 = 4;
/// Exit status of an answer to a grammar or a schema that was cut before its end.
pub const CUT: u8 = 5;
/// Exit status when there is a bridge, which serves another client.
pub const BUSY: u8 = 6;

/// Exit status of a chat that Ctrl-C ended, as a shell shows it.
pub const INTERRUPTED: u8 = 130;

/// Why a run ended.
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
        /// The reply's `code`, from the closed list of the protocol; empty if there was none.
        code: String,
    },
    /// Nothing was heard for as long as `--timeout` allows.
    Silence(String),
    /// The bridge took the connection but said nothing to a question that needs no work.
    Busy(String),
    /// A limit cut an answer that a grammar or a schema had begun.
    Cut(String),
    /// The connection ended before the answer was complete.
    Lost(String),
    /// Standard output could not be written.
    Output(io::Error),
    /// The message was already shown; only the exit status is left to give.
    Told(u8),
}

/// The outcome of a run whose messages were shown: its exit status.
pub fn told(status: u8) -> Result<(), Failure> {
    match status {
        DONE => Ok(()),
        status => Err(Failure::Told(status)),
    }
}

impl Failure {
    /// The exit status that stands for this failure.
    pub fn status(&self) -> u8 {
        match self {
            Failure::Usage(_) => USAGE,
            Failure::Connect(_) | Failure::Forbidden(_) | Failure::Untrusted(_) => NO_CONNECTION,
            Failure::Bridge { code, .. } if passes(code) => RETRY,
            Failure::Bridge { .. } => REFUSED,
            Failure::Silence(_) | Failure::Lost(_) => RETRY,
            Failure::Busy(_) => BUSY,
            Failure::Cut(_) => CUT,
            // The reader has seen enough (`| head`): that is no failure.
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => DONE,
            Failure::Output(_) => REFUSED,
            Failure::Told(status) => *status,
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

    /// True if the bridge may soon be there again, with all that it had.
    pub fn may_pass(&self) -> bool {
        match self {
            Failure::Bridge { code, .. } => passes(code),
            Failure::Lost(_) => true,
            _ => self.status() == NO_CONNECTION,
        }
    }

    /// True if the bridge as a whole is of no use, so that another one should be asked.
    pub fn is_of_the_bridge(&self) -> bool {
        match self {
            Failure::Bridge { code, .. } => {
                matches!(
                    code.as_str(),
                    "no_model" | "load_failed" | "unauthenticated" | "denied" | "unknown_command"
                ) || passes(code)
            }
            _ => true,
        }
    }
}

/// True if this code of an error reply stands for what may be over soon: a model that died, or
/// `internal`, which a bridge that is stopped says to whoever waits for an answer.
fn passes(code: &str) -> bool {
    matches!(code, "model_died" | "internal")
}

/// The message; empty where there is nothing to tell.
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
            Failure::Bridge { message, code } if code == "unknown_command" => {
                write!(out, "{message} (this bridge does not support it)")
            }
            Failure::Bridge { message, code } if code == "no_model" => {
                write!(out, "{message}\nLoad one with: llambo load PATH")
            }
            Failure::Bridge { message, code } if code == "unauthenticated" => {
                write!(out, "{message}\nPass it with: llambo --auth-file FILE")
            }
            Failure::Bridge { message, .. } => out.write_str(message),
            Failure::Told(_) => Ok(()),
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
