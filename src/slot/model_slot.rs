//! The model slot: at most one model, and the process that holds it while there is one. Nothing
//! here waits: what is under way goes on with [`receive`](Slot::receive) and [`tick`](Slot::tick).

use std::mem;
use std::time::{Duration, Instant};

use super::counters::SlotCounters;
use super::ending::Ending;
use super::events::{Event, LoadStatus, Readiness};
use super::loading::{Loading, Origin, failed_to_load};
use super::model_dir::ModelDir;
use super::model_file::ModelFile;
use super::model_program::ModelProgram;
use super::worker::Worker;
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
    /// To be silent while it has requests.
    pub stall: Duration,
    /// To be idle, before the model is unloaded; `None` is without end.
    pub idle: Option<Duration>,
}

/// What is known of a model that was loaded.
pub struct Model {
    file: ModelFile,
    origin: Origin,
    /// What its process reported of it.
    pub ready: Ready,
    /// How long it took to load.
    load_time: Duration,
}

impl Model {
    /// Its path, as it was given.
    pub fn path(&self) -> &str {
        self.file.path()
    }
}

enum State {
    Empty,
    /// There is a model, and no process: the next request that needs it loads it again.
    Unloaded(Model),
    Loaded(Model, Box<Worker>),
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
    /// Processes whose memory is not back yet.
    ending: Ending,
    last_id: u64,
    counters: SlotCounters,
}

/// The states that [`Slot::state`] returns, by their names in METRICS, which stay: an unloaded
/// model is `resting` there.
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
            ending: Ending::default(),
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
            State::Unloaded(_) => "resting",
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

    /// The model, loaded or unloaded.
    pub fn model(&self) -> Option<&Model> {
        match &self.state {
            State::Empty => None,
            State::Unloaded(model) | State::Loaded(model, _) => Some(model),
        }
    }

    /// Whether there is a model that has to be loaded again when it is needed.
    pub fn is_unloaded(&self) -> bool {
        matches!(self.state, State::Unloaded(_))
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

    /// Reads what the processes sent, if that is `readable`, and reaps those that are gone, if a child
    /// has `ended`.
    pub fn receive(&mut self, now: Instant, readable: bool, ended: bool) -> Vec<Event> {
        if ended {
            self.ending.reap(now);
        }
        let mut events = self.receive_answers(now, readable, ended);
        let load = self.receive_load(now, readable, ended);
        self.counters.failed_loads += u64::from(matches!(load, Some(Err(_))));
        events.extend(load.map(Event::LoadEnded));
        events
    }

    fn receive_answers(&mut self, now: Instant, readable: bool, ended: bool) -> Vec<Event> {
        let State::Loaded(model, worker) = &mut self.state else {
            return Vec::new();
        };
        let mut events = worker.receive(now, readable, ended);
        if let Some(exit) = worker.exit() {
            let path = model.path();
            let message = format!("{path}: model process died: {}", exit.reason);
            log::write(Level::Error, &message);
            self.counters.deaths += 1;
            self.unload(now);
            let failed = |id| Event::Answer(id, Err(exit.failure.clone()));
            events.extend(exit.requests.into_iter().map(failed));
        }
        events
    }

    fn receive_load(
        &mut self,
        now: Instant,
        readable: bool,
        ended: bool,
    ) -> Option<Result<(), Failure>> {
        let loading = self.loading.as_mut()?;
        match loading.receive(now, readable, ended)? {
            Ok(ready) => {
                self.install(*ready, now);
                Some(Ok(()))
            }
            Err(failure) => {
                if loading.reloads {
                    self.state = State::Empty;
                }
                self.abort_load(now);
                Some(Err(failure))
            }
        }
    }

    /// Ends processes that are stuck or have been idle for too long; `wanted` says whether a
    /// request waits for the model. Returns when to call this again, after
    /// [`receive`](Self::receive).
    pub fn tick(&mut self, now: Instant, wanted: bool) -> Option<Instant> {
        let load = self.loading.as_mut();
        let load = load.and_then(|loading| loading.tick(now, self.limits.load));
        let work = match &mut self.state {
            State::Loaded(model, worker) => {
                worker.tick(now, wanted, model.load_time, self.limits.stall)
            }
            _ => None,
        };
        let deadlines = [
            load,
            work,
            self.unload_if_idle(now, wanted),
            self.ending.tick(now),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Unloads a model that nothing has needed for long enough; returns when that will be.
    fn unload_if_idle(&mut self, now: Instant, wanted: bool) -> Option<Instant> {
        let limit = self.limits.idle.filter(|_| self.loading.is_none())?;
        let State::Loaded(model, worker) = &self.state else {
            return None;
        };
        let at = worker.idle_since()? + limit;
        if wanted || now < at {
            return Some(at).filter(|_| !wanted);
        }
        let (path, seconds) = (model.path(), limit.as_secs());
        let message = format!("{path}: unloaded after {seconds} s idle");
        log::write(Level::Info, &message);
        self.unload(now);
        self.ending.tick(now)
    }

    /// Leaves a loaded model without its process, which ends.
    fn unload(&mut self, now: Instant) {
        if let State::Loaded(model, worker) = mem::replace(&mut self.state, State::Empty) {
            self.counters.unloads += 1;
            self.state = State::Unloaded(model);
            self.ending.add(worker.into_child(), now);
        }
    }

    /// Puts the model that was loaded in the place of the one before, whose process goes.
    fn install(&mut self, ready: Ready, now: Instant) {
        let Some(loading) = self.loading.take() else {
            return;
        };
        let model = Model {
            file: loading.file,
            origin: loading.origin,
            ready,
            load_time: now - loading.since,
        };
        self.counters.loads += 1;
        self.counters.load_time += model.load_time;
        let worker = Box::new(Worker::new(loading.process, loading.states, now));
        let before = mem::replace(&mut self.state, State::Loaded(model, worker));
        self.end_worker(before, now);
    }

    fn end_worker(&mut self, state: State, now: Instant) {
        if let State::Loaded(_, worker) = state {
            self.ending.add(worker.into_child(), now);
        }
    }

    /// Begins to load a model in a new process; the one before is ended when that is done. A reload
    /// that is under way is given up, or taken over if it is of the same file.
    ///
    /// # Errors
    /// `load_failed` with what is wrong with the file, or `denied`; the model before is still in
    /// place, unless it was unloaded and is the one that cannot be loaded. `timeout` if processes
    /// that were killed are still there.
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
        self.ending.reap(now);
        if self.is_waited_for(now) {
            return Ok(LoadStatus::NotYet);
        }
        // One may be left behind: the memory that it holds is no longer available.
        if self.ending.len() > 1 {
            let reason = self.ending.describe();
            return Err(failed_to_load(path, Code::Timeout, &reason));
        }
        let reloads = matches!(&self.state, State::Unloaded(model) if model.path() == path);
        let directory = self.directory.as_ref();
        let found = match ModelFile::of(path, directory.filter(|_| origin == Origin::Client)) {
            Ok(found) => found,
            Err(refusal) => {
                // Who may not load it cannot take it away by trying.
                if reloads && refusal.code != Code::Denied {
                    self.abort_load(now);
                    self.state = State::Empty;
                }
                return Err(failed_to_load(path, refusal.code, &refusal.reason));
            }
        };
        match &self.state {
            State::Loaded(model, _) if model.file == found.file => return Ok(LoadStatus::Loaded),
            _ => (),
        }
        match &self.loading {
            Some(loading) if loading.file == found.file => return Ok(LoadStatus::UnderWay),
            _ => self.abort_load(now),
        }
        self.warn_if_replaced(&found.file);
        let (program, settings) = (&self.program, &self.settings);
        self.loading = Some(Loading::start(
            found, origin, reloads, program, settings, now,
        )?);
        Ok(LoadStatus::UnderWay)
    }

    /// Tells whoever runs the bridge if the file of a model that is reloaded is another one.
    fn warn_if_replaced(&self, file: &ModelFile) {
        if let State::Unloaded(model) = &self.state
            && model.path() == file.path()
            && model.file != *file
        {
            let path = file.path();
            let message = format!("{path}: is not the file that was loaded before");
            log::write(Level::Warning, &message);
        }
    }

    /// Whether the process of the loaded model, or one that was told to end, may soon be gone: its
    /// memory is not back yet.
    fn is_waited_for(&self, now: Instant) -> bool {
        let worker = matches!(&self.state, State::Loaded(_, worker) if worker.ending());
        worker || self.ending.is_waited_for(now)
    }

    /// Whether a load is under way.
    pub fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// Gives up a load that is under way.
    pub fn abort_load(&mut self, now: Instant) {
        if let Some(loading) = self.loading.take() {
            self.ending.add(loading.process.into_child(), now);
        }
    }

    /// Whether a request can be given to the model; begins to load one that was unloaded.
    ///
    /// # Errors
    /// `load_failed`: it cannot be loaded again, and the slot is empty now.
    pub fn ensure_loaded(&mut self, now: Instant) -> Result<Readiness, Failure> {
        let (path, origin) = match &self.state {
            State::Loaded(_, worker) if worker.takes_work() => return Ok(Readiness::Ready),
            State::Empty if self.loading.is_none() => return Ok(Readiness::Empty),
            State::Unloaded(model) if self.loading.is_none() => {
                (model.path().to_string(), model.origin)
            }
            _ => return Ok(Readiness::NotYet),
        };
        match self.load(&path, origin, now) {
            Ok(_) => Ok(Readiness::NotYet),
            // It can still be loaded when those that are in its way are gone.
            Err(failure) if failure.code == Code::Timeout => Err(failure),
            Err(failure) => {
                self.state = State::Empty;
                Err(failure)
            }
        }
    }

    /// Gives a request to the model, which has to be [ready](Readiness::Ready); returns the
    /// number by which events speak of it.
    ///
    /// # Errors
    /// The answer to a request that the model need not be given.
    pub fn ask(&mut self, work: Work, now: Instant) -> Result<u64, Failure> {
        self.last_id += 1;
        if let State::Loaded(_, worker) = &mut self.state {
            worker.ask(self.last_id, work, now)?;
        }
        Ok(self.last_id)
    }

    /// Has the model give up a request. No further event is about it.
    pub fn cancel(&mut self, id: u64, now: Instant) {
        if let State::Loaded(_, worker) = &mut self.state {
            worker.cancel(id, now);
        }
    }

    /// Takes the model away. Its memory is back once the slot is [free](Self::is_free).
    pub fn free(&mut self, now: Instant) {
        self.abort_load(now);
        let before = mem::replace(&mut self.state, State::Empty);
        self.end_worker(before, now);
        // What is said of those that are left is to be true now.
        self.ending.reap(now);
    }

    /// Whether there is neither a model nor memory of one.
    pub fn is_free(&self) -> bool {
        matches!(self.state, State::Empty) && self.ending.is_empty()
    }

    /// Which processes were killed and are still there, for a message, once none of them is likely to
    /// be gone soon.
    pub fn left_behind(&self, now: Instant) -> Option<String> {
        let none = self.ending.is_empty() || self.ending.is_waited_for(now);
        (!none).then(|| self.describe_ending())
    }

    /// Which processes were killed and are still there, for a message.
    pub fn describe_ending(&self) -> String {
        self.ending.describe()
    }
}
