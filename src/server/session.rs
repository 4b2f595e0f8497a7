//! What goes on with one client: its requests that are under way, in order. Some are with the
//! model at once, their replies leave in the order of the requests. Nothing here waits.

use std::collections::VecDeque;
use std::time::Instant;

use crate::server::auth::AuthState;
use crate::server::carry_out::{carry_out, loaded};
use crate::server::client::Client;
use crate::server::command::{self, Action, Prepared};
use crate::server::pending_request::{Job, PendingRequest, State};
use crate::server::request_log::Record;
use crate::server::settings::{Context, Settings};
use crate::slot::{Event, Readiness};
use llama_cpp_bridge::protocol::framing::Framed;
use llama_cpp_bridge::protocol::reply;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::{Answer, Work};
use llama_cpp_bridge::sys::log::{self, Level};
use llama_cpp_bridge::sys::poll::PollFd;

/// Most requests of one client that are under way, answered ones that wait for their turn included.
/// More than can be worked on together, so that a slow request does not leave the model idle.
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
    pub fn new(client: Client, next_token: Instant, context: &Context) -> Self {
        Self {
            auth: AuthState::new(&context.settings.access, next_token),
            client,
            requests: VecDeque::new(),
            began: context.now,
            closing: false,
            quit: false,
        }
    }

    /// When a token may be looked at again.
    pub fn next_token(&self) -> Instant {
        self.auth.next()
    }

    /// What to wait for.
    pub fn poll(&self, settings: &Settings) -> PollFd<'_> {
        self.client.poll(self.may_take(settings))
    }

    /// Reads some of what the client sent.
    pub fn read(&mut self) {
        self.client.read();
    }

    /// Notes that the client is gone for good. What it has sent and can be done at once is still
    /// done: a QUIT needs nobody to read the reply.
    pub fn hung_up(&mut self, context: &mut Context) {
        self.client.hung_up();
        while self.may_take(&context.settings) && self.client.read() {
            self.advance(context);
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
    fn questions(&self) -> usize {
        self.requests.iter().filter(|r| r.is_question()).count()
    }

    /// Whether nothing is left to be done for the client.
    pub fn over(&self) -> bool {
        let done = self.requests.is_empty() && !self.client.has_output();
        self.client.gone() || (done && (self.closing || self.client.at_end()))
    }

    /// Does what can be done now; returns when to call this again, if nothing happens before.
    pub fn tick(&mut self, context: &mut Context) -> Option<Instant> {
        self.end_late_requests(context);
        self.advance(context);
        let open = self.requests.iter().filter(|r| !r.is_answered());
        // Without room for its answer the client's reading is waited for.
        let head = self.requests.front().filter(|_| self.client.has_room());
        let head = head.and_then(|head| match &head.state {
            State::Waiting(Action::Auth(_)) => Some(self.auth.next()),
            State::Delayed(until, _) => Some(*until),
            _ => None,
        });
        let deadlines = open.filter_map(|request| request.deadline).chain(head);
        let yields = self.yields_at(&context.settings);
        deadlines.chain(yields.filter(|at| *at > context.now)).min()
    }

    /// Takes requests, has the model work on them, sends replies, as far as each goes.
    fn advance(&mut self, context: &mut Context) {
        loop {
            let mut moved = self.take_requests(context);
            context.metrics.in_flight = self.questions();
            // Before the model is asked: what answers the head of the queue is not to show what a
            // request after it has changed.
            moved |= self.send_answers(context);
            if !self.client.gone() {
                moved |= self.ask_model(context);
            }
            moved |= self.client.flush(context.now);
            if !moved {
                context.metrics.in_flight = self.questions();
                return;
            }
        }
    }

    fn may_take(&self, settings: &Settings) -> bool {
        let held: usize = self.requests.iter().map(PendingRequest::held).sum();
        !self.closing
            && self.requests.len() < QUEUE_LIMIT
            && self.questions() < settings.params.parallel as usize
            && held < HELD_LIMIT
            && !self.requests.back().is_some_and(PendingRequest::is_barrier)
    }

    fn take_requests(&mut self, context: &Context) -> bool {
        let (settings, now) = (&context.settings, context.now);
        let mut moved = false;
        while self.may_take(settings)
            && let Some(framed) = self.client.next()
        {
            moved = true;
            let malformed = |failure| Prepared {
                verb: command::UNKNOWN,
                alone: false,
                action: Err(failure),
            };
            self.closing |= matches!(framed, Framed::Broken(_));
            let prepared = match framed {
                Framed::Request(request) => {
                    command::prepare(&request, settings, self.auth.is_authenticated())
                }
                Framed::Rejected(failure) | Framed::Broken(failure) => malformed(failure),
            };
            let record = Record::new(prepared.verb, now);
            let mut request = match prepared.action {
                Ok(action) => PendingRequest::new(action, prepared.alone, record),
                Err(failure) => PendingRequest::refused(failure, record),
            };
            if request.is_question() {
                // Its time runs even if one before it has to load the model first.
                request.start_clock(settings.request_timeout, now);
            }
            self.requests.push_back(request);
        }
        moved
    }

    /// Gives the model all questions that wait for it, if it can take them; one that has to be
    /// alone only when it is its turn.
    fn ask_model(&mut self, context: &mut Context) -> bool {
        let (slot, now) = (&mut context.slot, context.now);
        let mut moved = false;
        for (at, request) in self.requests.iter_mut().enumerate() {
            if request.is_barrier() && at > 0 {
                continue;
            }
            let State::Waiting(Action::Ask(jobs)) = &mut request.state else {
                continue;
            };
            // With an unloaded model's process went all that there was to store.
            let cannot_succeed = slot.is_unloaded() && matches!(jobs[..], [Work::Save(_)]);
            let readiness = match cannot_succeed {
                true => Err(Failure::nothing_to_save()),
                false => slot.ensure_loaded(now),
            };
            match readiness {
                Ok(Readiness::Ready) => {
                    let jobs = std::mem::take(jobs).into_iter().map(|work| {
                        let id = slot.ask(work, now)?;
                        Ok(Job { id, answer: None })
                    });
                    match jobs.collect() {
                        Ok(jobs) => request.state = State::Asked(jobs),
                        Err(failure) => request.answer(&Err(failure)),
                    }
                }
                Ok(Readiness::NotYet) => (),
                Ok(Readiness::Empty) => request.answer(&Err(Failure::no_model())),
                Err(failure) => request.answer(&Err(failure)),
            }
            request.start_clock(context.settings.request_timeout, now);
            if request.waits_for_model() {
                break;
            }
            moved = true;
        }
        moved
    }

    /// Moves what is ready at the head of the queue to the client, as far as it takes it.
    fn send_answers(&mut self, context: &mut Context) -> bool {
        let mut moved = false;
        while self.client.has_room() {
            let Some(head) = self.requests.front_mut() else {
                break;
            };
            self.quit |= carry_out(head, &self.client, &mut self.auth, context);
            if let Some(piece) = head.pieces.pop_front() {
                self.client.push(&reply::partial_line(&piece), context.now);
                moved = true;
                continue;
            }
            let State::Answered(line) = &head.state else {
                break;
            };
            self.client.push(line, context.now);
            self.ended(context);
            moved = true;
            if self.quit {
                self.closing = true;
                while !self.requests.is_empty() {
                    self.ended(context);
                }
            }
        }
        moved
    }

    /// Takes the request at the head out of the queue, answered or not: it is counted, and logged.
    fn ended(&mut self, context: &mut Context) {
        let Some(PendingRequest { record, .. }) = self.requests.pop_front() else {
            return;
        };
        context.metrics.ended(&record);
        if context.settings.params.verbose {
            log::write(Level::Info, &record.line(self.client.peer()));
        }
    }

    /// Takes in what happened to the model. Returns whether a request was concerned.
    pub fn on_event(&mut self, event: Event, context: &mut Context) -> bool {
        match event {
            Event::LoadEnded(outcome) => self.load_ended(outcome),
            Event::Piece(id, piece) => match self.asked(id) {
                Some(request) => {
                    request.push_piece(piece);
                    true
                }
                None => false,
            },
            Event::Answer(id, outcome) => self.job_done(id, outcome, context),
        }
    }

    fn asked(&mut self, id: u64) -> Option<&mut PendingRequest> {
        let mut requests = self.requests.iter_mut();
        requests.find(|request| request.open_jobs().any(|job| job == id))
    }

    /// A request is answered by the answers to all its jobs, or by the first failure.
    fn job_done(
        &mut self,
        id: u64,
        outcome: Result<Answer, Failure>,
        context: &mut Context,
    ) -> bool {
        let Some(request) = self.asked(id) else {
            return false;
        };
        match outcome {
            Ok(answer) => request.job_done(id, answer),
            Err(failure) => {
                for other in request.open_jobs().filter(|other| *other != id) {
                    context.slot.cancel(other, context.now);
                }
                request.answer(&Err(failure));
            }
        }
        true
    }

    /// A LOAD is answered. Where an unloaded model could not be loaded again, the request that
    /// needed it first is; those after it find the slot empty.
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
    fn end_late_requests(&mut self, context: &mut Context) {
        let Some(limit) = context.settings.request_timeout else {
            return;
        };
        for request in &mut self.requests {
            let late = request.deadline.is_some_and(|at| at <= context.now);
            if late && !request.is_answered() {
                give_up(request, context);
                let message = format!("Not answered within {} s", limit.as_secs());
                request.answer(&Err(Failure::new(Code::Timeout, message)));
            }
        }
    }

    /// When the client is to be disconnected in favour of one that waits, if it does nothing until
    /// then.
    pub fn yields_at(&self, settings: &Settings) -> Option<Instant> {
        // One that has shown no token gets no more time by asking again and again.
        let stranger = (!self.auth.is_authenticated()).then_some(settings.idle_timeout);
        let limits = settings.turn_limit.into_iter().chain(stranger);
        // Of one that is closing already only its answers are waited for.
        let turn = limits.min().filter(|_| !self.closing);
        let turn = turn.map(|limit| self.began + limit);
        turn.into_iter().chain(self.patience_ends(settings)).min()
    }

    /// When it has been idle, or too slow, for too long.
    fn patience_ends(&self, settings: &Settings) -> Option<Instant> {
        let passive = self.requests.is_empty() || self.client.has_output();
        passive.then(|| self.client.patience_ends(settings.idle_timeout))
    }

    /// Makes room for a client that waits, if this one's time is over: at once if it is idle or too
    /// slow, when its requests are answered if its turn was long enough.
    pub fn yield_if_due(&mut self, context: &Context) {
        let (settings, now) = (&context.settings, context.now);
        if self.patience_ends(settings).is_some_and(|at| at <= now) {
            self.client.hung_up();
        } else if self.yields_at(settings).is_some_and(|at| at <= now) {
            self.closing = true;
        }
    }

    /// Has the model give up all that the client asked for: nobody is there to read the answers.
    pub fn abandon(&mut self, context: &mut Context) {
        while let Some(request) = self.requests.front_mut() {
            give_up(request, context);
            self.ended(context);
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

/// Has the slot stop whatever it does for a request.
fn give_up(request: &PendingRequest, context: &mut Context) {
    if matches!(request.state, State::Loading) {
        context.slot.abort_load(context.now);
    }
    for id in request.open_jobs() {
        context.slot.cancel(id, context.now);
    }
}
