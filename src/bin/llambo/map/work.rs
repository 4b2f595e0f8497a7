//! A prompt a line in, an answer a line out, shared among the bridges by whoever is free.

use std::collections::VecDeque;
use std::io::{self, BufRead, IsTerminal, Read};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use llama_cpp_bridge::shared::endpoint::MAX_REQUEST_LIMIT;

use super::progress::Progress;
use super::queue::{Answer, Line, Next, Queue};
use crate::cli::{Each, Options};
use crate::connection::{self, Address, Reply};
use crate::failure::{self, Failure};
use crate::generate::{self, Sampling};
use crate::input;
use crate::output;

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

/// What all threads work with.
struct Work {
    options: Options,
    sampling: Sampling,
    queue: Queue,
}

/// Answers the lines of standard input.
pub fn run(options: Options) -> Result<(), Failure> {
    let sampling = Sampling::from_options(&options)?;
    let sockets = options.bridges.addresses.clone();
    let work = Arc::new(Work {
        options,
        sampling,
        queue: Queue::new(sockets.len()),
    });
    {
        let work = Arc::clone(&work);
        thread::spawn(move || read(&work));
    }
    for (number, address) in sockets.into_iter().enumerate() {
        let work = Arc::clone(&work);
        thread::spawn(move || ask(&work, number, &address));
    }
    write(&work)
}

/// Reads lines, or whatever ends in NUL, until the end of standard input.
fn read(work: &Work) {
    let end = if work.options.null { b'\0' } else { b'\n' };
    let mut input = io::stdin().lock();
    let problem = loop {
        match read_line(&mut input, end, work) {
            Ok(true) => {}
            Ok(false) => break None,
            Err(error) => break Some(format!("cannot read standard input: {error}")),
        }
    };
    work.queue.end(problem);
}

/// Reads one line, but no more of it than is sent to a bridge; false at the end of the input.
fn read_line(input: &mut impl BufRead, end: u8, work: &Work) -> io::Result<bool> {
    let most = work.options.max_request;
    let mut bytes = Vec::new();
    // Room for what ends the line.
    input.take(most + 2).read_until(end, &mut bytes)?;
    let ended = bytes.pop_if(|byte| *byte == end).is_some();
    if !ended && bytes.is_empty() {
        return Ok(false);
    }
    if ended && !work.options.null {
        bytes.pop_if(|byte| *byte == b'\r');
    }
    if bytes.len() as u64 > most {
        let problem = input::too_long("the line", &work.options);
        work.queue.push(Err(Answer::client_error(problem)));
        if !ended && input.take(MAX_REQUEST_LIMIT).skip_until(end)? as u64 == MAX_REQUEST_LIMIT {
            return Err(io::Error::other("a line does not end within 1 GiB"));
        }
    } else if bytes.is_empty() {
        work.queue.push(Err(Answer::default()));
    } else {
        let line = input::decode(bytes)
            .map_err(|problem| Answer::client_error(format!("the line is {problem}")));
        work.queue
            .push(line.map(|line| match &work.options.template {
                Some(template) => template.replace("{}", &line),
                None => line,
            }));
    }
    Ok(true)
}

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
fn ask(work: &Work, number: usize, address: &Address) {
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
            work.queue
                .tell(format!("{message}; it gets {seconds} s to come back"));
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

impl Work {
    /// The request that asks a line.
    fn request(&self, line: &str) -> Vec<u8> {
        match self.options.each {
            Each::Infer => connection::encode("GENERATE", &self.sampling.of_prompt(line)),
            Each::Chat => {
                let turns = generate::opening(&self.options, line.to_string());
                connection::encode("GENERATE", &self.sampling.of_messages(&turns))
            }
            Each::Embed => connection::encode("EMBED", line),
        }
    }

    /// Makes the answer to a line of a reply, or the failure of a bridge that is of no use.
    fn answer(&self, reply: Reply) -> Result<Answer, Failure> {
        let line = self.options.json.then(|| reply.line.clone());
        let cut = !self.sampling.limited && reply.text("finish_reason") == "length";
        let outcome = match reply.into_result() {
            Err(failure) if failure.is_of_the_bridge() => return Err(failure),
            outcome => outcome.and_then(|reply| self.sampling.check(&reply).map(|()| reply)),
        };
        let (text, error) = match &outcome {
            Ok(reply) if self.options.each == Each::Embed => (reply.numbers("embedding"), None),
            Ok(reply) => (reply.text("data").to_string(), None),
            Err(failure) => (String::new(), Some((failure.to_string(), failure.status()))),
        };
        Ok(Answer {
            text: line.unwrap_or(text),
            cut: cut && error.is_none(),
            error,
        })
    }
}

impl Answer {
    /// The answer to a line that no bridge answers.
    pub fn client_error(message: String) -> Answer {
        Answer {
            error: Some((message, failure::REFUSED)),
            ..Answer::default()
        }
    }

    /// The answer as it is printed: on one line, or as it is where NUL ends it.
    fn shown(self, options: &Options) -> String {
        let mut text = match (&self.error, options.json) {
            (Some((message, _)), true) if self.text.is_empty() => format!(
                "{{\"status\":\"error\",\"message\":{},\"code\":\"bad_request\"}}",
                output::json_string(message)
            ),
            (Some((message, _)), false) => format!("error: {message}"),
            _ => self.text,
        };
        if options.null {
            text.push('\0');
        } else {
            text = if options.wants_json_text() {
                text.replace(['\r', '\n'], " ")
            } else {
                text.replace('\r', "\\r").replace('\n', "\\n")
            };
            text.push('\n');
        }
        text
    }
}

/// Writes the answers in order, and shows on a terminal how far the work is.
fn write(work: &Work) -> Result<(), Failure> {
    let mut progress = Progress::new();
    let mut writer = Writer::default();
    let tick = progress.is_shown().then_some(Progress::TICK);
    loop {
        progress.show(|| work.queue.count());
        match work.queue.next(tick) {
            Next::Answer(index, answer) => {
                if io::stdout().is_terminal() || answer.error.is_some() {
                    progress.clear();
                }
                writer.write(index, answer, &work.options)?;
            }
            Next::Message(message) => {
                progress.clear();
                output::tell(&message);
            }
            Next::Pending => {}
            Next::Done => break,
            // What was answered behind the first gap is asked again by whoever goes on there.
            Next::Deserted => {
                progress.clear();
                writer.note_cut();
                output::tell(&format!(
                    "no bridge left: the lines from {} on are not answered",
                    writer.written + 1
                ));
                return Err(Failure::Told(work.queue.failed().max(failure::REFUSED)));
            }
        }
    }
    progress.clear();
    writer.note_cut();
    if let Some(problem) = work.queue.problem() {
        return Err(Failure::Usage(problem));
    }
    failure::told(writer.worst)
}

/// Counts what it writes.
#[derive(Default)]
struct Writer {
    written: usize,
    /// The worst exit status of an error.
    worst: u8,
    cut: usize,
}

impl Writer {
    fn write(&mut self, index: usize, answer: Answer, options: &Options) -> Result<(), Failure> {
        if let Some((message, status)) = &answer.error {
            self.worst = self.worst.max(*status);
            output::tell(&format!("line {}: {message}", index + 1));
        }
        self.cut += usize::from(answer.cut);
        self.written = index + 1;
        output::print(&answer.shown(options))
    }

    fn note_cut(&self) {
        if self.cut > 0 {
            output::tell(&format!(
                "{} of {} answers were cut at the bridge's limit; -n sets how many tokens they may have",
                self.cut, self.written
            ));
        }
    }
}
