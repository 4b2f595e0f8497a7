//! Asks one bridge, again and again, until no line is left or it fails for good.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use super::queue::Line;
use super::work::Work;
use crate::connection::Address;
use crate::failure::{self, Failure};

/// Requests that are sent to a bridge for each that it works on at once (INFO's `parallel`, 1 where
/// it tells none): the next lie ready when answers are finished. More would leave lines with a busy
/// bridge at the end, while others have nothing to do.
const PIPELINED: usize = 2;

/// How often a bridge that was lost is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often a bridge may be back and fail again, without an answer in between, and still gets the
/// whole of --retry to come back: a line that kills it slowly is not the end of all others, but one
/// that always fails at work is given up.
const RELAPSES: usize = 10;

/// How long a bridge is held before others that wait for it get their turn: it serves one client
/// at a time, and a nightly batch should not keep a person waiting until morning.
const TURN: Duration = Duration::from_secs(10);

/// What is known of a bridge between the turns for which it is held.
#[derive(Default)]
struct Visit {
    /// Lines that it has not answered yet.
    asked: VecDeque<Line>,
    /// How many requests it works on at once.
    parallel: usize,
    /// Which bridge it is, counted from 0.
    number: usize,
    /// True once it was there.
    reached: bool,
    /// True if it was there the last time that it was looked for.
    there: bool,
    /// What is known while it fails without an answer in between.
    failing: Option<Failing>,
}

/// A bridge that fails.
struct Failing {
    /// Since when it is lost.
    since: Instant,
    /// The exit status of the first failure.
    status: u8,
    /// How often it was back and failed again.
    relapses: usize,
}

/// Asks one bridge until no line is left or it fails for good.
pub fn ask(work: &Work, number: usize, address: &Address) {
    let mut visit = Visit {
        number,
        ..Visit::default()
    };
    while work.queue.wait_for_line(number) {
        visit.there = false;
        let outcome = hold(work, address, &mut visit);
        if visit.there {
            work.queue.release();
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
        if visit.there && failing.relapses < RELAPSES {
            failing.since = Instant::now();
            failing.relapses += 1;
        }
        let patience = work.options.retry;
        if !visit.reached || !failure.may_pass() || failing.since.elapsed() >= patience {
            return work.queue.retire(Some((message, failing.status)));
        }
        if failure.status() != failure::NO_CONNECTION {
            let seconds = patience.as_secs_f64();
            work.queue.tell(format!(
                "{message}; waiting up to {seconds} s for it to return"
            ));
        }
        thread::sleep(LOOK_EVERY);
    }
    work.queue.retire(None);
}

/// Holds a bridge for one turn. A bridge that is busy gets no lines until it has answered an INFO,
/// so that the others do not wait for what lies with it.
fn hold(work: &Work, address: &Address, visit: &mut Visit) -> Result<(), Failure> {
    let mut connection = work.options.bridges.connect_to(address)?.without_notice();
    let parallel = connection.quick("INFO")?.into_result()?.count("parallel");
    visit.parallel = usize::try_from(parallel).unwrap_or(1).max(1);
    visit.reached = true;
    let requests = connection.sending()?;
    visit.there = true;
    work.queue.hold();
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
            // A bridge that is gone takes nothing; reading tells.
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
