//! A request that is not answered yet, or whose answer has not left: all that is known of it. What
//! is done for it is the session's business.

use std::collections::VecDeque;
use std::mem;
use std::time::{Duration, Instant};

use crate::server::command::Action;
use crate::server::request_log::Record;
use llama_cpp_bridge::protocol::reply::{self, Reply};
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::{Answer, Work};

/// Pieces of a stream that are kept apart while they wait.
const PIECES_LIMIT: usize = 256;

/// A request under way.
pub struct PendingRequest {
    pub state: State,
    /// Whether its client asked for pieces.
    streams: bool,
    /// The pieces of a stream that have not left yet.
    pub pieces: VecDeque<String>,
    /// When it has to be answered.
    pub deadline: Option<Instant>,
    /// Whether it is worked on alone, from its turn until it is answered.
    alone: bool,
    /// What is noted of it.
    pub record: Record,
}

/// How far a request is.
pub enum State {
    /// Nothing is done for it yet: the model cannot take it, or its turn has not come.
    Waiting(Action),
    /// The model works on it.
    Asked(Vec<Job>),
    /// Its LOAD is under way.
    Loading,
    /// Its FREE is under way.
    Freeing,
    /// This will answer it, not before that time.
    Delayed(Instant, Failure),
    /// Answered by this line.
    Answered(String),
}

/// What the model does for a request, a part of it or the whole.
pub struct Job {
    /// Its number in the slot.
    pub id: u64,
    /// `None` as long as the model is at work on it.
    pub answer: Option<Answer>,
}

impl PendingRequest {
    /// A request that is there, with what is to be done for it.
    pub fn new(action: Action, alone: bool, record: Record) -> Self {
        let streams = match &action {
            Action::Ask(jobs) => jobs.iter().any(Work::streams),
            _ => false,
        };
        Self {
            state: State::Waiting(action),
            streams,
            pieces: VecDeque::new(),
            deadline: None,
            alone,
            record,
        }
    }

    /// A request that is wrong, and so answered already.
    pub fn refused(failure: Failure, mut record: Record) -> Self {
        let outcome = Err(failure);
        record.answered(&outcome);
        Self {
            state: State::Answered(reply::line(&outcome)),
            streams: false,
            pieces: VecDeque::new(),
            deadline: None,
            alone: false,
            record,
        }
    }

    /// Answers it; the line leaves when it is its turn.
    pub fn answer(&mut self, outcome: &Result<Reply, Failure>) {
        self.record.answered(outcome);
        self.state = State::Answered(reply::line(outcome));
    }

    /// Whether its answer is there.
    pub fn is_answered(&self) -> bool {
        matches!(self.state, State::Answered(_))
    }

    /// Whether it is with the model, or soon will be; one that has to be alone counts once it is.
    pub fn is_question(&self) -> bool {
        match self.state {
            State::Waiting(Action::Ask(_)) => !self.alone,
            State::Asked(_) => true,
            _ => false,
        }
    }

    /// Whether it waits for all before it, and all after it wait for it.
    pub fn is_barrier(&self) -> bool {
        self.alone && !self.is_answered()
    }

    /// Whether it is to be given to the model and is not yet.
    pub fn waits_for_model(&self) -> bool {
        matches!(self.state, State::Waiting(Action::Ask(_)))
    }

    /// Bytes of it that wait to leave.
    pub fn held(&self) -> usize {
        let answer = match &self.state {
            State::Answered(line) => line.len(),
            _ => 0,
        };
        answer + self.pieces.iter().map(String::len).sum::<usize>()
    }

    /// Keeps a piece until it can leave; one that nobody asked for is dropped. A stream that is too
    /// far ahead of its reader gets longer pieces instead of more of them.
    pub fn push_piece(&mut self, piece: String) {
        if !self.streams {
            return;
        }
        let many = self.pieces.len() >= PIECES_LIMIT;
        match self.pieces.back_mut() {
            Some(last) if many => last.push_str(&piece),
            _ => self.pieces.push_back(piece),
        }
    }

    /// Sets when it has to be answered, the first time that something is done for it.
    pub fn start_clock(&mut self, limit: Option<Duration>, now: Instant) {
        self.deadline = self.deadline.or(limit.map(|limit| now + limit));
    }

    /// The jobs that the model still has of it.
    pub fn open_jobs(&self) -> impl Iterator<Item = u64> {
        let jobs = match &self.state {
            State::Asked(jobs) => jobs.as_slice(),
            _ => &[],
        };
        let open = jobs.iter().filter(|job| job.answer.is_none());
        open.map(|job| job.id)
    }

    /// Takes the answer to one of its jobs; the last one answers the request.
    pub fn job_done(&mut self, id: u64, answer: Answer) {
        let State::Asked(jobs) = &mut self.state else {
            return;
        };
        self.record.worked(&answer);
        if let Some(job) = jobs.iter_mut().find(|job| job.id == id) {
            job.answer = Some(answer);
        }
        if jobs.iter().any(|job| job.answer.is_none()) {
            return;
        }
        let answers = mem::take(jobs).into_iter().filter_map(|job| job.answer);
        let reply = reply::from_answers(self.record.verb, answers.collect());
        self.answer(&reply.ok_or_else(|| {
            let message = "The model process sent the wrong kind of answer".to_string();
            Failure::new(Code::Internal, message)
        }));
    }
}
