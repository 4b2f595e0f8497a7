//! The model slot: at most one model, and the process that holds it while there is one. Nothing
//! here waits: what is under way goes on with each [`turn`](Slot::turn).

use std::mem;
use std::time::{Duration, Instant};

use super::counters::SlotCounters;
use super::loading::{Loading, Origin, failed_to_load};
use super::model_dir::ModelDir;
use super::model_file::ModelFile;
use super::model_program::ModelProgram;
use super::process::ModelProcess;
use super::worker::{Heard, Worker};
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::{Ready, Work};
use llama_cpp_bridge::shared::settings::ModelParams;
use llama_cpp_bridge::sys::log::{self, Level};
use llama_cpp_bridge::sys::poll::PollFd;

/// How long the model process may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// To load a model.
    pub load: Duration,
    /// To say anything about the requests that it works on.
    pub stall: Duration,
    /// To have nothing to do, before it is ended; `None` is without end.
    pub idle: Option<Duration>,
}

/// What is known of a model that was loaded.
pub struct Model {
    identity: ModelFile,
    origin: Origin,
    /// What it told of itself.
    pub ready: Ready,
    /// How long it took to load.
    load_time: Duration,
}

impl Model {
    /// Its path, as it was given.
    pub fn path(&self) -> &str {
        self.identity.path()
    }
}

enum State {
    Empty,
    /// There is a model, and no process: the next request that needs it brings it back.
    Resting(Model),
    Loaded(Model, Box<Worker>),
}

/// What came of a call of [`Slot::load`].
#[derive(Debug, PartialEq)]
pub enum LoadStatus {
    /// The very file is loaded already.
    Loaded,
    /// It is under way; [`Event::LoadEnded`] will tell.
    UnderWay,
    /// A process that is ending has to be gone first: try again in the next turn.
    NotYet,
}

/// Whether a request can be given to the model.
#[derive(Debug, PartialEq)]
pub enum Readiness {
    /// There is no model.
    Empty,
    /// At once.
    Ready,
    /// When the model is back, or its process free.
    NotYet,
}

/// What happened in a turn.
#[derive(Debug)]
pub enum Event {
    /// A load ended, that of a LOAD or that which was to bring a resting model back.
    LoadEnded(Result<(), Failure>),
    /// Something was heard of a request.
    Heard(Heard),
}

/// The one model that is loaded, or none.
pub struct Slot {
    /// How to load models; the path is filled in for each.
    settings: ModelParams,
    program: ModelProgram,
    /// Where clients' models have to lie.
    directory: Option<ModelDir>,
    limits: Limits,
    state: State,
    loading: Option<Loading>,
    /// Processes that were told to end and whose memory is not back yet.
    ending: Vec<ModelProcess>,
    last_id: u64,
    counters: SlotCounters,
}

/// The states that [`Slot::state`] can tell.
pub const STATES: [&str; 4] = ["empty", "loading", "loaded", "resting"];

impl Slot {
    /// An empty slot, whose models will be loaded with these settings.
    pub fn new(
        settings: ModelParams,
        program: ModelProgram,
        directory: Option<ModelDir>,
        limits: Limits,
    ) -> Self {
        Self {
            settings,
            program,
            directory,
            limits,
            state: State::Empty,
            loading: None,
            ending: Vec::new(),
            last_id: 0,
            counters: SlotCounters::default(),
        }
    }

    /// One of [`STATES`]; a load that is under way hides what was there before.
    pub fn state(&self) -> &'static str {
        match &self.state {
            _ if self.is_loading() => "loading",
            State::Empty => "empty",
            State::Loaded(..) => "loaded",
            State::Resting(_) => "resting",
        }
    }

    /// What was counted so far.
    pub fn counters(&self) -> &SlotCounters {
        &self.counters
    }

    /// The process that has the model, else the one that loads it.
    pub fn process(&self) -> Option<u32> {
        match (&self.state, &self.loading) {
            (State::Loaded(_, worker), _) => Some(worker.pid()),
            (_, Some(loading)) => Some(loading.process.pid()),
            _ => None,
        }
    }

    /// The model, loaded or resting.
    pub fn model(&self) -> Option<&Model> {
        match &self.state {
            State::Empty => None,
            State::Resting(model) | State::Loaded(model, _) => Some(model),
        }
    }

    /// Whether there is a model that is not loaded now.
    pub fn rests(&self) -> bool {
        matches!(self.state, State::Resting(_))
    }

    /// What to wait for.
    pub fn polls(&self) -> impl Iterator<Item = PollFd<'_>> {
        let worker = match &self.state {
            State::Loaded(_, worker) => Some(worker.polls()),
            _ => None,
        };
        let loading = self.loading.as_ref().map(Loading::polls);
        worker
            .into_iter()
            .flatten()
            .chain(loading.into_iter().flatten())
    }

    /// When [`turn`](Self::turn) has to be called again at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let worker = match &self.state {
            State::Loaded(_, worker) => worker.deadline(self.limits.stall),
            _ => None,
        };
        let loading = self.loading.as_ref();
        let loading = loading.and_then(|loading| loading.deadline(self.limits.load));
        let times = worker.into_iter().chain(loading);
        times.chain(self.rests_at()).min()
    }

    /// When the model is to rest, if nothing needs it until then.
    fn rests_at(&self) -> Option<Instant> {
        let limit = self.limits.idle.filter(|_| self.loading.is_none())?;
        match &self.state {
            State::Loaded(_, worker) => worker.idle_since().map(|since| since + limit),
            _ => None,
        }
    }

    /// Ends the process of a model that nothing has needed for long enough.
    fn rest_if_idle(&mut self, now: Instant) {
        let due = self.rests_at().is_some_and(|at| at <= now);
        let Some(limit) = self.limits.idle.filter(|_| due) else {
            return;
        };
        if let Some(model) = self.model() {
            let (path, seconds) = (model.path(), limit.as_secs());
            let message = format!("{path}: rests: not needed for {seconds} s");
            log::write(Level::Info, &message);
        }
        if let Some(worker) = self.rest() {
            self.end(worker.into_process());
        }
    }

    /// The path of the model that is being loaded.
    pub fn loads(&self) -> Option<&str> {
        let loading = self.loading.as_ref()?;
        Some(loading.identity.path())
    }

    /// Takes in what the processes say, ends those that have to be ended, and buries those that
    /// are gone. `said` tells whether they may have said something, `wanted` whether a request
    /// waits for the model.
    pub fn turn(&mut self, now: Instant, said: bool, wanted: bool) -> Vec<Event> {
        self.ending
            .retain_mut(|process| process.try_reap().is_none());
        let mut events = self.turn_worker(now, said, wanted);
        if !wanted {
            self.rest_if_idle(now);
        }
        let ended = self.turn_loading(now, said);
        self.counters.failed_loads += u64::from(matches!(ended, Some(Err(_))));
        events.extend(ended.map(Event::LoadEnded));
        events
    }

    fn turn_worker(&mut self, now: Instant, said: bool, wanted: bool) -> Vec<Event> {
        let State::Loaded(model, worker) = &mut self.state else {
            return Vec::new();
        };
        let heard = if said { worker.pump(now) } else { Vec::new() };
        let mut events: Vec<Event> = heard.into_iter().map(Event::Heard).collect();
        worker.check(now, wanted, model.load_time, self.limits.stall);
        if let Some(death) = worker.try_reap() {
            let path = model.path();
            let message = format!("{path}: model process died: {}", death.reason);
            log::write(Level::Error, &message);
            self.counters.deaths += 1;
            self.rest();
            let told = |id| Event::Heard(Heard::Answer(id, Err(death.told.clone())));
            events.extend(death.requests.into_iter().map(told));
        }
        events
    }

    /// Leaves a loaded model without its process, which it gives back.
    fn rest(&mut self) -> Option<Box<Worker>> {
        match mem::replace(&mut self.state, State::Empty) {
            State::Loaded(model, worker) => {
                self.counters.rests += 1;
                self.state = State::Resting(model);
                Some(worker)
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    fn turn_loading(&mut self, now: Instant, said: bool) -> Option<Result<(), Failure>> {
        let loading = self.loading.as_mut()?;
        match loading.turn(now, said, self.limits.load)? {
            Ok(ready) => {
                self.install(*ready, now);
                Some(Ok(()))
            }
            Err(failure) => {
                if loading.wakes {
                    self.state = State::Empty;
                }
                self.loading = None;
                Some(Err(failure))
            }
        }
    }

    /// Puts the model that was loaded in the place of the one before, whose process goes.
    fn install(&mut self, ready: Ready, now: Instant) {
        let Some(loading) = self.loading.take() else {
            return;
        };
        let model = Model {
            identity: loading.identity,
            origin: loading.origin,
            ready,
            load_time: now - loading.since,
        };
        self.counters.loads += 1;
        self.counters.load_time += model.load_time;
        let worker = Box::new(Worker::new(loading.process, now));
        let before = mem::replace(&mut self.state, State::Loaded(model, worker));
        self.let_go(before);
    }

    fn let_go(&mut self, state: State) {
        if let State::Loaded(_, worker) = state {
            self.end(worker.into_process());
        }
    }

    fn end(&mut self, mut process: ModelProcess) {
        process.end();
        if process.try_reap().is_none() {
            self.ending.push(process);
        }
    }

    /// Begins to load a model in a new process; the one before is let go of when that is done. A
    /// load that is under way for a resting model gives way, or is taken over.
    ///
    /// # Errors
    /// `load_failed` with what is wrong with the file, or `denied`; the model before is still in
    /// place, unless it was resting and is the one that cannot be loaded.
    pub fn load(
        &mut self,
        path: &str,
        origin: Origin,
        now: Instant,
    ) -> Result<LoadStatus, Failure> {
        let begun = self.begin(path, origin, now);
        self.counters.failed_loads += u64::from(begun.is_err());
        begun
    }

    fn begin(&mut self, path: &str, origin: Origin, now: Instant) -> Result<LoadStatus, Failure> {
        if self.is_ending() {
            return Ok(LoadStatus::NotYet);
        }
        let wakes = matches!(&self.state, State::Resting(model) if model.path() == path);
        let directory = self.directory.as_ref();
        let found = match ModelFile::of(path, directory.filter(|_| origin == Origin::Client)) {
            Ok(found) => found,
            Err(refusal) => {
                // Who may not load it cannot take it away by trying.
                if wakes && refusal.code != Code::Denied {
                    self.abort_load();
                    self.state = State::Empty;
                }
                return Err(failed_to_load(path, refusal.code, &refusal.reason));
            }
        };
        let identity = &found.identity;
        match &self.state {
            State::Loaded(model, _) if model.identity == *identity => {
                return Ok(LoadStatus::Loaded);
            }
            _ => (),
        }
        match &self.loading {
            Some(loading) if loading.identity == *identity => return Ok(LoadStatus::UnderWay),
            _ => self.abort_load(),
        }
        let (program, settings) = (&self.program, &self.settings);
        self.loading = Some(Loading::start(
            found, origin, wakes, program, settings, now,
        )?);
        Ok(LoadStatus::UnderWay)
    }

    /// Whether the process of the loaded model, or one that was told to end, is still to be
    /// buried: its memory is not back yet.
    fn is_ending(&self) -> bool {
        let worker = matches!(&self.state, State::Loaded(_, worker) if worker.ending());
        worker || !self.ending.is_empty()
    }

    /// Whether a load is under way.
    pub fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// Gives up a load that is under way.
    pub fn abort_load(&mut self) {
        if let Some(loading) = self.loading.take() {
            self.end(loading.process);
        }
    }

    /// Whether a request can be given to the model; begins to bring back one that rests.
    ///
    /// # Errors
    /// `load_failed`: it cannot be brought back, and the slot is empty now.
    pub fn ensure_loaded(&mut self, now: Instant) -> Result<Readiness, Failure> {
        let (path, origin) = match &self.state {
            State::Loaded(_, worker) if worker.takes_work() => return Ok(Readiness::Ready),
            State::Empty if self.loading.is_none() => return Ok(Readiness::Empty),
            State::Resting(model) if self.loading.is_none() => {
                (model.path().to_string(), model.origin)
            }
            _ => return Ok(Readiness::NotYet),
        };
        match self.load(&path, origin, now) {
            Ok(_) => Ok(Readiness::NotYet),
            Err(failure) => {
                self.state = State::Empty;
                Err(failure)
            }
        }
    }

    /// Gives a request to the model, which has to be [ready](Readiness::Ready); returns the
    /// number by which events speak of it.
    pub fn ask(&mut self, work: Work, now: Instant) -> u64 {
        self.last_id += 1;
        if let State::Loaded(_, worker) = &mut self.state {
            worker.ask(self.last_id, work, now);
        }
        self.last_id
    }

    /// Has the model give up a request. Nothing more is heard of it.
    pub fn cancel(&mut self, id: u64, now: Instant) {
        if let State::Loaded(_, worker) = &mut self.state {
            worker.cancel(id, now);
        }
    }

    /// Takes the model away. Its memory is back once the slot is [free](Self::is_free).
    pub fn free(&mut self) {
        self.abort_load();
        let before = mem::replace(&mut self.state, State::Empty);
        self.let_go(before);
    }

    /// Whether there is neither a model nor memory of one.
    pub fn is_free(&self) -> bool {
        matches!(self.state, State::Empty) && !self.is_ending()
    }
}
