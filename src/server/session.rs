//! What goes on with one client: its requests that are under way, in order. Some are with the
//! model at once, their replies leave in the order of the requests. Nothing here waits.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use crate::cli::Options;
use crate::server::access::Access;
use crate::server::auth::AuthState;
use crate::server::client::Client;
use crate::server::command::{self, MakeReply};
use crate::server::metrics::Metrics;
use crate::server::pending_request::{PendingRequest, State, loaded};
use crate::server::request_log::Record;
use crate::slot::Heard;
use crate::slot::{Event, Readiness, Slot};
use llama_cpp_bridge::protocol::framing::Framed;
use llama_cpp_bridge::protocol::reply;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::sys::log::{self, Level};
use llama_cpp_bridge::sys::peer::Peer;
use llama_cpp_bridge::sys::poll::PollFd;

/// Requests of one client that are under way at the most, answered ones that wait for their turn
/// included. More than can be worked on together, so that a slow request does not leave the
/// model idle behind it.
const QUEUE_LIMIT: usize = 256;

/// Bytes of answers that may wait for their turn before no further request is taken.
const HELD_LIMIT: usize = 1 << 20;

/// A client and its requests.
pub struct Session {
    client: Client,
    auth: AuthState,
    requests: VecDeque<PendingRequest>,
    /// When the client came.
    began: Instant,
    /// No further request is taken, and the connection closes when those under way are answered.
    closing: bool,
    /// Its QUIT was carried out.
    quit: bool,
}

impl Session {
    /// Welcomes a client. No token of it is looked at before `next_token`.
    pub fn new(
        client: Client,
        access: &Rc<Access>,
        next_token: Instant,
        now: Instant,
    ) -> Self {
        Self {
            auth: AuthState::new(access, next_token),
            client,
            requests: VecDeque::new(),
            began: now,
            closing: false,
            quit: false,
        }
    }

    /// When a token may be looked at again.
    pub fn next_token(&self) -> Instant {
        self.auth.next()
    }

    /// Who the client is.
    pub fn peer(&self) -> Peer {
        self.client.peer()
    }

    /// What to wait for.
    pub fn poll(&self, options: &Options) -> PollFd<'_> {
        self.client.poll(self.may_take(options))
    }

    /// Reads some of what the client sent.
    pub fn read(&mut self) {
        self.client.read();
    }

    /// Notes that the client is gone for good. What it has sent and can be done at once is still
    /// done: a QUIT needs nobody to read the reply.
    pub fn hung_up(
        &mut self,
        slot: &mut Slot,
        options: &Options,
        metrics: &mut Metrics,
        now: Instant,
    ) {
        self.client.hung_up();
        while self.may_take(options) && self.client.read() {
            self.advance(slot, options, metrics, now);
        }
    }

    /// Whether a QUIT was carried out.
    pub fn quit(&self) -> bool {
        self.quit
    }

    /// Whether a request waits for the model.
    pub fn wants_model(&self) -> bool {
        self.requests.iter().any(PendingRequest::waits_for_model)
    }

    /// How many of its requests the model is to answer, or is at.
    pub fn questions(&self) -> usize {
        self.requests.iter().filter(|r| r.is_question()).count()
    }

    /// Whether nothing is left to be done for the client.
    pub fn over(&self) -> bool {
        let done = self.requests.is_empty() && !self.client.has_output();
        self.client.gone() || (done && (self.closing || self.client.at_end()))
    }

    /// Does what can be done now: takes requests, has the model work on them, sends replies.
    pub fn advance(
        &mut self,
        slot: &mut Slot,
        options: &Options,
        metrics: &mut Metrics,
        now: Instant,
    ) {
        self.end_late_requests(slot, options, now);
        loop {
            let mut moved = self.take_requests(options, now);
            metrics.in_flight = self.questions();
            // Before the model is asked: what is told at the head of the queue is not to show
            // what a request behind it has changed.
            moved |= self.give_answers(slot, options, metrics, now);
            if !self.client.gone() {
                moved |= self.ask_model(slot, options, now);
            }
            moved |= self.client.flush(now);
            if !moved {
                metrics.in_flight = self.questions();
                return;
            }
        }
    }

    fn may_take(&self, options: &Options) -> bool {
        let held: usize = self.requests.iter().map(PendingRequest::held).sum();
        !self.closing
            && self.requests.len() < QUEUE_LIMIT
            && self.questions() < options.load.parallel as usize
            && held < HELD_LIMIT
            && !self.requests.back().is_some_and(PendingRequest::is_barrier)
    }

    fn take_requests(&mut self, options: &Options, now: Instant) -> bool {
        let mut moved = false;
        while self.may_take(options)
            && let Some(framed) = self.client.next()
        {
            moved = true;
            let (verb, prepared) = match framed {
                Framed::Request(request) => (
                    command::verb(&request),
                    command::prepare(&request, options, self.auth.is_open()),
                ),
                Framed::Rejected(failure) => (command::UNKNOWN, Err(failure)),
                Framed::Broken(failure) => {
                    self.closing = true;
                    (command::UNKNOWN, Err(failure))
                }
            };
            let record = Record::new(verb, now);
            let mut request = match prepared {
                Ok(action) => PendingRequest::new(action, record),
                Err(failure) => PendingRequest::refused(failure, record),
            };
            if request.is_question() {
                // Its time runs even if one before it has to wake the model first.
                request.begin(options, now);
            }
            self.requests.push_back(request);
        }
        moved
    }

    /// Gives the model all questions that wait for it, if it can take them; one that has to be
    /// alone only when it is its turn.
    fn ask_model(&mut self, slot: &mut Slot, options: &Options, now: Instant) -> bool {
        let mut moved = false;
        for (at, request) in self.requests.iter_mut().enumerate() {
            if !request.waits_for_model() || (request.is_barrier() && at > 0) {
                continue;
            }
            request.begin(options, now);
            if let Some(failure) = request.is_vain(slot) {
                request.answer(&Err(failure));
                moved = true;
                continue;
            }
            match slot.ensure_loaded(now) {
                Ok(Readiness::NotYet) => break,
                Ok(Readiness::Ready) => request.ask(slot, now),
                Ok(Readiness::Empty) => request.answer(&Err(Failure::no_model())),
                Err(failure) => request.answer(&Err(failure)),
            }
            moved = true;
        }
        moved
    }

    /// Moves what is ready at the head of the queue to the client, as far as it takes it.
    fn give_answers(
        &mut self,
        slot: &mut Slot,
        options: &Options,
        metrics: &mut Metrics,
        now: Instant,
    ) -> bool {
        let mut moved = false;
        let peer = self.peer();
        while self.client.has_room()
            && let Some(head) = self.requests.front_mut()
        {
            self.auth.answer(head, peer, now);
            self.quit |= head.carry_out(slot, options, metrics, now, self.client.gone());
            if let Some(piece) = head.pieces.pop_front() {
                self.client.push(&reply::partial_line(&piece), now);
                moved = true;
                continue;
            }
            let State::Answered(line) = &head.state else {
                break;
            };
            self.client.push(line, now);
            self.ended(options, metrics);
            moved = true;
            if self.quit {
                self.closing = true;
                while !self.requests.is_empty() {
                    self.ended(options, metrics);
                }
            }
        }
        moved
    }

    /// Takes the request at the head out of the queue, answered or not: it is counted, and logged.
    fn ended(&mut self, options: &Options, metrics: &mut Metrics) {
        let Some(PendingRequest { record, .. }) = self.requests.pop_front() else {
            return;
        };
        metrics.ended(&record);
        if options.load.verbose {
            log::write(Level::Info, &record.line(self.client.peer()));
        }
    }

    /// Takes in what happened to the model. Tells whether a request was concerned.
    pub fn hear(&mut self, event: Event) -> bool {
        match event {
            Event::Heard(Heard::Piece(id, piece)) => match self.asked(id) {
                Some((request, _)) => request.hold(piece),
                None => return false,
            },
            Event::Heard(Heard::Answer(id, outcome)) => match self.asked(id) {
                Some((request, reply)) => {
                    let other = || {
                        Failure::new(
                            Code::Internal,
                            "The model process gave another kind of answer than was asked for",
                        )
                    };
                    if let Ok(answer) = &outcome {
                        request.record.worked(answer);
                    }
                    let outcome = outcome.and_then(|answer| reply(answer).ok_or_else(other));
                    request.answer(&outcome);
                }
                None => return false,
            },
            Event::LoadEnded(outcome) => return self.load_ended(outcome),
        }
        true
    }

    fn asked(&mut self, id: u64) -> Option<(&mut PendingRequest, MakeReply)> {
        self.requests
            .iter_mut()
            .find_map(|request| match request.state {
                State::Asked(this, reply) if this == id => Some((request, reply)),
                _ => None,
            })
    }

    /// A LOAD is answered. Where the model could not be brought back, the request that needed it
    /// first is; those behind find the slot empty.
    fn load_ended(&mut self, outcome: Result<(), Failure>) -> bool {
        let loads = |r: &&mut PendingRequest| matches!(r.state, State::Loading);
        if let Some(request) = self.requests.iter_mut().find(loads) {
            request.answer(&outcome.map(|()| loaded()));
            return true;
        }
        let waits = |r: &&mut PendingRequest| r.waits_for_model();
        match (outcome, self.requests.iter_mut().find(waits)) {
            (Err(failure), Some(request)) => request.answer(&Err(failure)),
            (Err(_), None) => return false,
            (Ok(()), _) => (),
        }
        true
    }

    /// Answers those whose time is over, and has the model give them up.
    fn end_late_requests(&mut self, slot: &mut Slot, options: &Options, now: Instant) {
        let Some(limit) = options.request_timeout else {
            return;
        };
        for request in &mut self.requests {
            if request.is_answered() || request.deadline.is_none_or(|deadline| now < deadline) {
                continue;
            }
            request.give_up(slot, now);
            let message = format!("Not answered within {} s", limit.as_secs());
            request.answer(&Err(Failure::new(Code::Timeout, message)));
        }
    }

    /// When [`advance`](Self::advance) has to be called again at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let open = self.requests.iter().filter(|r| !r.is_answered());
        // Without room for its answer the client's reading is waited for.
        let head = self.requests.front().filter(|_| self.client.has_room());
        let token = head.and_then(|head| self.auth.deadline(head));
        let deadlines = open.filter_map(|request| request.deadline);
        deadlines.chain(token).min()
    }

    /// When the client has to give way to one that waits, if it does nothing until then.
    pub fn gives_way_at(&self, options: &Options) -> Option<Instant> {
        // One that has shown no token gets no more time by asking again and again.
        let stranger = (!self.auth.is_open()).then_some(options.idle_timeout);
        let limits = options.turn_limit.into_iter().chain(stranger);
        // One that is closing gives way already, and only its answers are waited for.
        let turn = limits.min().filter(|_| !self.closing);
        let turn = turn.map(|limit| self.began + limit);
        turn.into_iter().chain(self.patience_ends(options)).min()
    }

    /// When it has been idle, or too slow, for too long.
    fn patience_ends(&self, options: &Options) -> Option<Instant> {
        let passive = self.requests.is_empty() || self.client.has_output();
        passive.then(|| self.client.patience_ends(options.idle_timeout))
    }

    /// Has it give way to a client that waits, if its time is over: at once if it is idle or too
    /// slow, when its requests are answered if its turn was long enough.
    pub fn give_way(&mut self, options: &Options, now: Instant) {
        if self.patience_ends(options).is_some_and(|at| at <= now) {
            self.client.hung_up();
        } else if self.gives_way_at(options).is_some_and(|at| at <= now) {
            self.closing = true;
        }
    }

    /// Has the model give up all that the client asked for: nobody is there to hear it.
    pub fn abandon(
        &mut self,
        slot: &mut Slot,
        options: &Options,
        metrics: &mut Metrics,
        now: Instant,
    ) {
        while let Some(request) = self.requests.front_mut() {
            request.give_up(slot, now);
            self.ended(options, metrics);
        }
    }

    /// Tells the client, if it waits for an answer, that none will come.
    pub fn say_goodbye(&mut self, now: Instant) {
        let waits = |request: &PendingRequest| !request.is_answered();
        if self.requests.front().is_some_and(waits) {
            let failure = Failure::new(Code::Internal, "The bridge is stopping");
            self.client.push(&reply::line(&Err(failure)), now);
        }
        self.client.flush(now);
    }
}
