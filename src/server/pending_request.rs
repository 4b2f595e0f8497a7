//! A request under way: where it is, what is still to leave of it, and how it goes on when it is its
//! turn. Nothing here waits.

use std::collections::VecDeque;
use std::time::Instant;

use crate::cli::Options;
use crate::server::command::{Action, MakeReply, Question};
use crate::server::metrics::Metrics;
use crate::server::request_log::Record;
use crate::slot::Origin;
use crate::slot::{LoadStatus, Slot};
use llama_cpp_bridge::protocol::reply::{self, Reply};
use llama_cpp_bridge::shared::failure::Failure;
use llama_cpp_bridge::shared::message::Work;

/// Pieces of a stream that are kept apart while they wait.
const PIECES_LIMIT: usize = 256;

/// A request under way.
pub struct PendingRequest {
    pub state: State,
    /// The pieces of a stream that have not left yet.
    pub pieces: VecDeque<String>,
    /// When it has to be answered.
    pub deadline: Option<Instant>,
    /// Whether it has to be alone, from its turn until it is answered.
    alone: bool,
    /// What is noted of it.
    pub record: Record,
}

/// How far a request is.
pub enum State {
    /// Not begun: a question until the model can take it, anything else until its turn.
    Waiting(Action),
    /// The model works on it, by this number, and this makes a reply of its answer.
    Asked(u64, MakeReply),
    /// Its LOAD is under way.
    Loading,
    /// Its FREE is under way.
    Freeing,
    /// It was an AUTH with a wrong token, and is told so a little later.
    RejectedClients,
    /// Answered by this line.
    Answered(String),
}

impl PendingRequest {
    /// A request that is there, with what is to be done for it.
    pub fn new(action: Action, record: Record) -> Self {
        let alone = matches!(
            action,
            Action::AskAlone(_) | Action::Load(_) | Action::Free | Action::Quit | Action::Auth(_)
        );
        Self {
            state: State::Waiting(action),
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

    /// Whether it is, or soon will be, with the model.
    pub fn is_question(&self) -> bool {
        matches!(
            self.state,
            State::Waiting(Action::Ask(_)) | State::Asked(..)
        )
    }

    /// Whether it waits for all before it, and all behind it wait for it.
    pub fn is_barrier(&self) -> bool {
        self.alone && !self.is_answered()
    }

    /// Whether it is to be given to the model and is not yet.
    pub fn waits_for_model(&self) -> bool {
        matches!(
            self.state,
            State::Waiting(Action::Ask(_) | Action::AskAlone(_))
        )
    }

    /// Why it is not worth bringing a resting model back for it, if that is so: with its process
    /// went all that there was to store.
    pub fn is_vain(&self, slot: &Slot) -> Option<Failure> {
        match &self.state {
            State::Waiting(Action::AskAlone(question)) if slot.rests() => match question.work {
                Work::Save(_) => Some(Failure::nothing_to_save()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Bytes of it that wait to leave.
    pub fn held(&self) -> usize {
        let answer = match &self.state {
            State::Answered(line) => line.len(),
            _ => 0,
        };
        answer + self.pieces.iter().map(String::len).sum::<usize>()
    }

    /// Keeps a piece until it can leave. A stream that is too far ahead of its reader gets longer
    /// pieces instead of more of them.
    pub fn hold(&mut self, piece: String) {
        let many = self.pieces.len() >= PIECES_LIMIT;
        match self.pieces.back_mut() {
            Some(last) if many => last.push_str(&piece),
            _ => self.pieces.push_back(piece),
        }
    }

    /// Sets when it has to be answered, the first time that something is done for it.
    pub fn begin(&mut self, options: &Options, now: Instant) {
        let limit = options.request_timeout;
        self.deadline = self.deadline.or(limit.map(|limit| now + limit));
    }

    /// Gives the question to the model, which is ready for it.
    pub fn ask(&mut self, slot: &mut Slot, now: Instant) {
        let placeholder = State::Freeing;
        self.state = match std::mem::replace(&mut self.state, placeholder) {
            State::Waiting(
                Action::Ask(Question { work, reply }) | Action::AskAlone(Question { work, reply }),
            ) => State::Asked(slot.ask(work, now), reply),
            other => other,
        };
    }

    /// Does what the request at the head of the queue asks for, or goes on with it; for a client
    /// that is `gone` only what is done at once. Tells whether that was QUIT.
    pub fn carry_out(
        &mut self,
        slot: &mut Slot,
        options: &Options,
        metrics: &Metrics,
        now: Instant,
        gone: bool,
    ) -> bool {
        match &self.state {
            State::Waiting(Action::Tell(tell)) => {
                let reply = tell(slot, options, metrics);
                self.answer(&Ok(reply));
            }
            State::Waiting(Action::Load(_)) if gone => (),
            State::Waiting(Action::Load(path)) => match slot.load(path, Origin::Client, now) {
                Ok(LoadStatus::Loaded) => self.answer(&Ok(loaded())),
                Ok(LoadStatus::UnderWay) => {
                    self.begin(options, now);
                    self.state = State::Loading;
                }
                Ok(LoadStatus::NotYet) => (),
                Err(failure) => self.answer(&Err(failure)),
            },
            State::Waiting(Action::Free) => {
                slot.free();
                self.state = State::Freeing;
            }
            State::Waiting(Action::Quit) => {
                slot.free();
                self.answer(&Ok(Reply::message("Goodbye")));
                return true;
            }
            _ => (),
        }
        if matches!(self.state, State::Freeing) && slot.is_free() {
            self.answer(&Ok(Reply::message("Resources freed")));
        }
        false
    }

    /// Has it end, wherever it is.
    pub fn give_up(&mut self, slot: &mut Slot, now: Instant) {
        match self.state {
            State::Asked(id, _) => slot.cancel(id, now),
            State::Loading => slot.abort_load(),
            _ => (),
        }
    }
}

/// What answers a LOAD that succeeded.
pub fn loaded() -> Reply {
    Reply::message("Model loaded successfully")
}
