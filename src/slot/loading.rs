//! A load under way: the process that it happens in, and when it has to be given up. Nothing here
//! waits.

use std::io;
use std::mem;
use std::time::{Duration, Instant};

use super::fd_passing::{Links, PassedFiles, PathAlias};
use super::model_file::{Found, ModelFile};
use super::model_program::ModelProgram;
use super::process::ModelProcess;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::{FromModel, Ready, ToModel};
use llama_cpp_bridge::shared::settings::ModelParams;
use llama_cpp_bridge::sys::poll::PollFd;

/// How long a model program may take to say what it is: it does nothing before that, but on a slow
/// disk it has to be read first.
const GREETING_LIMIT: Duration = Duration::from_secs(30);

/// Who wants a model to be loaded.
#[derive(Clone, Copy, PartialEq)]
pub enum Origin {
    /// Whoever runs the bridge.
    Owner,
    /// A client, whose models may have to lie in a directory.
    Client,
}

/// A load under way, beside the model before.
pub struct Loading {
    pub identity: ModelFile,
    pub origin: Origin,
    alias: PathAlias,
    _links: Option<Links>,
    pub process: ModelProcess,
    pub since: Instant,
    /// Whether it is to bring the resting model back, which is lost if it cannot.
    pub wakes: bool,
    /// Why it is being ended.
    refused: Option<Failure>,
}

impl Loading {
    /// Has a new process load the model that was found.
    ///
    /// # Errors
    /// `load_failed`: the process could not be started.
    pub fn start(
        found: Found,
        origin: Origin,
        wakes: bool,
        program: &ModelProgram,
        settings: &ModelParams,
        now: Instant,
    ) -> Result<Self, Failure> {
        let path = found.identity.path().to_string();
        let failed = |error: io::Error| {
            let reason = format!("cannot start the model process: {error}");
            failed_to_load(&path, Code::LoadFailed, &reason)
        };
        let split = found.identity.is_split();
        let mut passed = match found.files.as_slice() {
            [] => None,
            files => Some(PassedFiles::new(files, &found.paths, split).map_err(failed)?),
        };
        let process = ModelProcess::start(program, settings.verbose);
        let (file, alias) = match &mut passed {
            Some(passed) => (passed.file.clone(), mem::take(&mut passed.alias)),
            None => (path.clone(), PathAlias::default()),
        };
        let links = passed.and_then(PassedFiles::done);
        let mut process = process.map_err(failed)?;
        let load = ModelParams {
            path,
            file,
            size: found.identity.size(),
            ..settings.clone()
        };
        process.send(ToModel::Load(Box::new(load)));
        Ok(Self {
            identity: found.identity,
            origin,
            alias,
            _links: links,
            process,
            since: now,
            wakes,
            refused: None,
        })
    }

    /// What to wait for.
    pub fn polls(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.process.polls()
    }

    /// When it has to be given up; `limit` is how long it may take.
    pub fn deadline(&self, limit: Duration) -> Option<Instant> {
        self.refused
            .is_none()
            .then_some(self.since + self.limit(limit))
    }

    /// How long it may take to get on from here.
    fn limit(&self, limit: Duration) -> Duration {
        match self.process.greeted() {
            true => limit,
            false => limit.min(GREETING_LIMIT),
        }
    }

    /// Takes in what the process says, if it may have `said` something, and ends it where it has
    /// to be ended. `None` as long as the load is under way; a failure is told once the process is
    /// gone, with its memory.
    pub fn turn(
        &mut self,
        now: Instant,
        said: bool,
        limit: Duration,
    ) -> Option<Result<Box<Ready>, Failure>> {
        let late = self.deadline(limit).is_some_and(|at| now >= at);
        let messages = if said {
            self.process.pump()
        } else {
            Vec::new()
        };
        for message in messages {
            match message {
                FromModel::Ready(ready) => return Some(Ok(ready)),
                FromModel::Refused(reason) => {
                    let reason = self.process.first_error().unwrap_or(reason);
                    self.refuse(Code::LoadFailed, &reason);
                }
                _ => (),
            }
        }
        if late {
            let seconds = self.limit(limit).as_secs();
            let reason = match self.process.greeted() {
                true => format!("not loaded within {seconds} s"),
                false => format!(
                    "{} has not said within {seconds} s that it is a llama-cpp-bridge-model",
                    self.process.program()
                ),
            };
            self.refuse(Code::Timeout, &reason);
        }
        let died = self.process.try_reap()?;
        let reason = self.process.first_error().unwrap_or(died);
        self.refuse(Code::LoadFailed, &reason);
        self.refused.take().map(Err)
    }

    /// Has the process end. The first reason counts.
    fn refuse(&mut self, code: Code, reason: &str) {
        let path = self.identity.path();
        let failure = failed_to_load(path, code, &self.alias.undo(reason));
        self.refused.get_or_insert(failure);
        self.process.end();
    }
}

/// What a request is told whose model cannot be loaded.
pub fn failed_to_load(path: &str, code: Code, reason: &str) -> Failure {
    Failure::new(code, format!("Failed to load model: {path}: {reason}"))
}
