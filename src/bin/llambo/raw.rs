//! `raw`: standard input to the bridge as it is, its replies to standard output as they are.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::connection::{Connection, Sender};
use crate::failure::{self, Failure};
use crate::options::Options;
use crate::output;
use crate::reply::Status;

/// What the thread that sends tells the one that prints.
#[derive(Default)]
struct Progress {
    /// Requests that were sent whole.
    requests: AtomicUsize,
    /// When bytes were last sent.
    sent: Mutex<Option<Instant>>,
    /// Why standard input could not be read, if so.
    problem: Mutex<Option<String>>,
}

impl Progress {
    /// True if something was sent so lately that the bridge's silence is younger than it may be.
    fn sent_within(&self, time: Duration) -> bool {
        let sent = self.sent.lock().ok().and_then(|sent| *sent);
        sent.is_some_and(|sent| sent.elapsed() < time)
    }
}

/// Copies until the bridge has answered everything. A silence counts only while a reply is due.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let mut connection = Connection::open(options)?.without_notice();
    let progress = Arc::new(Progress::default());
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
            Err(Failure::Silence(_))
                if answered >= progress.requests.load(Ordering::Acquire)
                    || progress.sent_within(options.timeout.unwrap_or_default()) =>
            {
                continue;
            }
            Err(failure) => return Err(failure),
        };
        output::print_line(&reply.line)?;
        if reply.status != Status::Partial {
            answered += 1;
        }
        if let Err(failure) = reply.told() {
            worst = worst.max(failure.status());
        }
    }
    if let Ok(Some(problem)) = progress.problem.lock().map(|mut slot| slot.take()) {
        return Err(Failure::Usage(problem));
    }
    let due = progress.requests.load(Ordering::Acquire);
    if answered < due && worst == failure::DONE {
        return Err(connection.lost(&format!(
            "it closed the connection with {answered} of {due} requests answered"
        )));
    }
    match worst {
        failure::DONE => Ok(()),
        status => Err(Failure::Told(status)),
    }
}

/// Sends standard input, counting the requests in it.
fn copy(mut sender: Sender, progress: &Progress) {
    let mut counter = Counter::default();
    let mut chunk = [0; 16 * 1024];
    let mut input = io::stdin().lock();
    loop {
        match input.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => {
                let requests = counter.count(&chunk[..count]);
                progress.requests.fetch_add(requests, Ordering::AcqRel);
                if !sender.send(&chunk[..count]) {
                    return;
                }
                if let Ok(mut sent) = progress.sent.lock() {
                    *sent = Some(Instant::now());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                if let Ok(mut slot) = progress.problem.lock() {
                    *slot = Some(format!("cannot read standard input: {error}"));
                }
                break;
            }
        }
    }
    progress
        .requests
        .fetch_add(counter.last(), Ordering::AcqRel);
    sender.finish();
}

/// Where in the framing of requests the input stands.
#[derive(Default)]
enum Place {
    /// Before the first byte of a request.
    #[default]
    Start,
    /// Within a line.
    Line,
    /// Within the length of a netstring.
    Length(usize),
    /// Within a netstring, this many bytes before its end, the comma included.
    Body(usize),
}

/// Counts requests, lines and netstrings, in whatever pieces they come.
#[derive(Default)]
struct Counter {
    place: Place,
}

impl Counter {
    /// How many requests end in these bytes.
    fn count(&mut self, bytes: &[u8]) -> usize {
        let mut requests = 0;
        let mut rest = bytes;
        while let [byte, tail @ ..] = rest {
            rest = tail;
            self.place = match (std::mem::take(&mut self.place), byte) {
                (Place::Start, b'\n' | b'\r') => Place::Start,
                (Place::Start, b'0'..=b'9') => Place::Length(usize::from(byte - b'0')),
                (Place::Start, _) => Place::Line,
                (Place::Line, b'\n') => {
                    requests += 1;
                    Place::Start
                }
                (Place::Line, _) => Place::Line,
                (Place::Length(length), b'0'..=b'9') => Place::Length(
                    length
                        .saturating_mul(10)
                        .saturating_add(usize::from(byte - b'0')),
                ),
                (Place::Length(length), b':') => Place::Body(length.saturating_add(1)),
                // The bridge refuses this and closes the connection.
                (Place::Length(_), _) => Place::Line,
                (Place::Body(left), _) => {
                    let skipped = (left - 1).min(rest.len());
                    rest = &rest[skipped..];
                    match left - 1 - skipped {
                        0 => {
                            requests += 1;
                            Place::Start
                        }
                        left => Place::Body(left),
                    }
                }
            };
        }
        requests
    }

    /// How many requests the end of the input ends: a line without its newline is one.
    fn last(&self) -> usize {
        match self.place {
            Place::Start => 0,
            _ => 1,
        }
    }
}
