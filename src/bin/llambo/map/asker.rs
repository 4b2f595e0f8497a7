//! Asks one bridge, again and again, until no line is left or it fails for good.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use super::queue::Line;
use super::work::Work;
use crate::connection::Address;
use crate::failure::{self, Failure};

/// Requests in flight for each that a bridge works on at once (INFO's `parallel`, else 1), so that
/// the next are there when answers are finished. More would leave lines with a busy bridge at the
/// end, while others have nothing to do.
const PIPELINED: usize = 2;

/// How often to try a lost bridge.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often a bridge may return and fail again without an answer in between and still get the
/// whole of --retry: a line that kills it slowly must not be the end of all others, but a bridge
/// that always fails is given up.
const RELAPSES: usize = 10;

/// How long to stay connected before other clients get their turn: a bridge serves one at a time,
/// and a nightly batch should not keep a person waiting until morning.
const TURN: Duration = Duration::from_secs(10);

/// What is known of a bridge across connections.
#[derive(Default)]
struct Visit {
    /// Lines in flight.
    asked: VecDeque<Line>,
    /// How many requests it works on at once.
    parallel: usize,
    /// Which bridge it is, counted from 0.
    number: usize,
    /// Whether it was ever connected.
    ever_connected: bool,
    /// Whether the last attempt connected.
    connected: bool,
    /// Since it failed last without an answer after that.
    failing: Option<Failing>,
}

/// A run of failures.
struct Failing {
    /// When the bridge was lost.
    since: Instant,
    /// The exit status of the first failure.
    status: u8,
    /// How often it returned and failed again.
    relapses: usize,
}

/// Asks one bridge until no line is left or it fails for good.
pub fn ask(work: &Work, number: usize, address: &Address) {
    let mut visit = Visit {
        number,
        ..Visit::default()
    };
    while work.queue.wait_for_line(number) {
        visit.connected = false;
        let outcome = take_turn(work, address, &mut visit);
        if visit.connected {
            work.queue.disconnected();
        }
        let Err(failure) = outcome else {
            visit.failing = None;
            continue;
        };
        let asked = std::mem::take(&mut visit.asked);
        work.queue
            .give_back(asked, number, visit.parallel, &failure);
        let message = failure.of(address);
        let failing = visit.failing.get_or_insert_with(|| Failing {
            since: Instant::now(),
            status: failure.status(),
            relapses: 0,
        });
        if visit.connected && failing.relapses < RELAPSES {
            failing.since = Instant::now();
            failing.relapses += 1;
        }
        let patience = work.options.retry;
        if !visit.ever_connected || !failure.is_transient() || failing.since.elapsed() >= patience {
            return work.queue.retire(Some((message, failing.status)));
        }
        if failure.status() != failure::NO_CONNECTION {
            let seconds = patience.as_secs_f64();
            work.queue.report(format!(
                "{message}; waiting up to {seconds} s for it to return"
            ));
        }
        thread::sleep(LOOK_EVERY);
    }
    work.queue.retire(None);
}

/// Connects to a bridge for one turn. It gets no lines before it has answered INFO, so that lines
/// do not wait at a busy one.
fn take_turn(work: &Work, address: &Address, visit: &mut Visit) -> Result<(), Failure> {
    let mut connection = work.options.bridges.connect_to(address)?.without_notice();
    let parallel = connection.quick("INFO")?.into_result()?.count("parallel");
    visit.parallel = usize::try_from(parallel).unwrap_or(1).max(1);
    visit.ever_connected = true;
    let requests = connection.sending()?;
    visit.connected = true;
    work.queue.connected();
    let begin = Instant::now();
    loop {
        let asked = &mut visit.asked;
        while asked.len() < visit.parallel.saturating_mul(PIPELINED) && begin.elapsed() < TURN {
            if asked.front().is_some_and(|line| line.suspect) {
                break;
            }
            let Some(line) = work.queue.take(visit.number, asked.is_empty()) else {
                break;
            };
            // If the bridge is gone, the next read reports it.
            let _ = requests.send(work.request(&line.text));
            asked.push_back(line);
        }
        if asked.is_empty() {
            return Ok(());
        }
        let reply = connection.answer(|_| Ok(()))?;
        let answer = work.answer(reply)?;
        visit.failing = None;
        if let Some(line) = asked.pop_front() {
            work.queue.answer(&line, answer);
        }
    }
}
