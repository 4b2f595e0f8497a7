//! `raw`: copies standard input to the bridge, and its replies to standard output, unchanged.

use std::io::{self, BufRead, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use crate::cli::Options;
use crate::connection::{self, Status};
use crate::failure::{self, Failure};
use crate::output;

/// Digits that the length of a netstring has at most.
const LENGTH_DIGITS: usize = 10;

/// What the sending thread shares with the printing one.
#[derive(Default)]
struct Progress {
    /// Requests that were sent whole.
    requests: usize,
    /// When the last of them was sent.
    sent: Option<Instant>,
    /// Whether the bridge has accepted nothing of what is sent for as long as it may be silent.
    stuck: bool,
    /// Why standard input could not be read, if so.
    problem: Option<String>,
}

/// The bridge as a sink. One that is working need not read; it counts as silent only if it sends
/// nothing either. So a write that times out is noted and tried again.
struct Patient<'a> {
    bridge: &'a UnixStream,
    progress: &'a Mutex<Progress>,
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let outcome = self.bridge.write(bytes);
            let stuck = outcome.as_ref().is_err_and(connection::is_timeout);
            locked(self.progress).stuck = stuck;
            if !stuck {
                return outcome;
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.bridge.flush()
    }
}

/// Copies until the bridge has answered everything. A silence counts only while a reply is due.
pub fn run(options: &Options) -> Result<(), Failure> {
    let mut connection = options.bridges.connect()?.without_notice();
    let progress = Arc::new(Mutex::new(Progress::default()));
    let sender = connection.sender()?;
    {
        let progress = Arc::clone(&progress);
        thread::spawn(move || copy(sender, &progress));
    }
    let mut answered = 0;
    let mut worst = failure::DONE;
    loop {
        let reply = match connection.next_reply() {
            Ok(Some(reply)) => reply,
            Ok(None) => break,
            Err(Failure::Silence(_)) if locked(&progress).excuses(answered, options) => continue,
            Err(failure) => return Err(failure),
        };
        output::print_line(&reply.line)?;
        if reply.status != Status::Partial {
            answered += 1;
        }
        if let Err(failure) = reply.reported() {
            worst = worst.max(failure.status());
        }
    }
    let mut progress = locked(&progress);
    if let Some(problem) = progress.problem.take() {
        return Err(Failure::Usage(problem));
    }
    if answered < progress.requests && worst == failure::DONE {
        return Err(connection.lost(format!(
            "it closed the connection after {answered} of {} replies",
            progress.requests
        )));
    }
    failure::reported(worst)
}

impl Progress {
    /// Whether a silence is in order: no reply is due, or the last request was sent too recently.
    fn excuses(&self, answered: usize, options: &Options) -> bool {
        let silence = self.sent.map(|sent| sent.elapsed());
        !self.stuck && (answered >= self.requests || silence < options.bridges.timeout)
    }
}

fn locked(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    // A thread that panics ends the process, so that no lock is ever poisoned.
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends standard input, counting the requests in it.
fn copy(bridge: UnixStream, progress: &Mutex<Progress>) {
    let mut input = io::stdin().lock();
    let mut patient = Patient {
        bridge: &bridge,
        progress,
    };
    loop {
        match pass(&mut input, &mut patient) {
            Ok(Some(requests)) => {
                let mut progress = locked(progress);
                progress.requests += requests;
                progress.sent = Some(Instant::now());
            }
            Ok(None) => break,
            // The bridge accepts no more; its replies say why.
            Err(error) if connection::is_end(error.kind()) => return,
            Err(error) => {
                let problem = format!("cannot read standard input: {error}");
                locked(progress).problem = Some(problem);
                break;
            }
        }
    }
    connection::finish(&bridge);
}

/// Forwards a line or a netstring as it arrives, and returns how many requests that was: 0 for an
/// empty line. `None` at the end of the input.
fn pass(input: &mut impl BufRead, bridge: &mut impl Write) -> io::Result<Option<usize>> {
    let mut digits = String::new();
    while let Some(digit @ b'0'..=b'9') = input.fill_buf()?.first()
        && digits.len() < LENGTH_DIGITS
    {
        digits.push(char::from(*digit));
        input.consume(1);
    }
    bridge.write_all(digits.as_bytes())?;
    if let Ok(length) = digits.parse::<u64>() {
        // The length does not count the colon and the comma.
        io::copy(&mut input.take(length + 2), bridge)?;
        return Ok(Some(1));
    }
    let mut requests = None;
    loop {
        let bytes = input.fill_buf()?;
        let newline = bytes.iter().position(|byte| *byte == b'\n');
        let count = newline.map_or(bytes.len(), |at| at + 1);
        if count == 0 {
            return Ok(requests);
        }
        let empty = matches!(&bytes[..count], b"\n" | b"\r" | b"\r\n");
        requests = requests.max(Some(usize::from(!empty)));
        bridge.write_all(&bytes[..count])?;
        input.consume(count);
        if newline.is_some() {
            return Ok(requests);
        }
    }
}
