//! A load under way: the process that it happens in, and when it has to be given up. Nothing here
//! waits.

use std::io;
use std::mem;
use std::time::{Duration, Instant};

use super::fd_passing::{Links, PassedFiles, PathAlias};
use super::model_file::{Found, ModelFile};
use super::model_program::ModelProgram;
use super::process::ModelProcess;
use super::states::ModelStates;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::{FromModel, Ready, ToModel};
use llama_cpp_bridge::shared::settings::ModelParams;
use llama_cpp_bridge::sys::poll::PollFd;

/// How long a model program may take to identify itself: it does nothing before that, but on a slow
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

/// A load under way, while the model before is still there.
pub struct Loading {
    pub file: ModelFile,
    pub origin: Origin,
    alias: PathAlias,
    _links: Option<Links>,
    pub process: ModelProcess,
    pub states: Option<ModelStates>,
    pub since: Instant,
    /// Whether it reloads a model that was unloaded, which is lost if it fails.
    pub reloads: bool,
    /// Why it is being ended.
    failed: Option<Failure>,
}

impl Loading {
    /// Has a new process load the model that was found.
    ///
    /// # Errors
    /// `load_failed`: the process could not be started.
    pub fn start(
        found: Found,
        origin: Origin,
        reloads: bool,
        program: &ModelProgram,
        settings: &ModelParams,
        now: Instant,
    ) -> Result<Self, Failure> {
        let path = found.file.path().to_string();
        let failed = |error: io::Error| {
            let reason = format!("cannot start the model process: {error}");
            failed_to_load(&path, Code::LoadFailed, &reason)
        };
        let unread = |error: io::Error| failed_to_load(&path, Code::LoadFailed, &error.to_string());
        let states = ModelStates::of(&found.opened, settings).map_err(unread)?;
        let split = found.file.is_split();
        // Without /proc there is only the path, which may lead elsewhere by now.
        let mut passed = match found.confined || PassedFiles::possible() {
            true => Some(PassedFiles::new(found.opened, &found.paths, split).map_err(failed)?),
            false => None,
        };
        let (file, alias) = match &mut passed {
            Some(passed) => (passed.file.clone(), mem::take(&mut passed.alias)),
            None => (path.clone(), PathAlias::default()),
        };
        let process = ModelProcess::start(program, alias.clone(), settings.verbose);
        let links = passed.and_then(PassedFiles::done);
        let mut process = process.map_err(failed)?;
        let load = ModelParams {
            path,
            file,
            size: found.file.size(),
            states: states.as_ref().and_then(ModelStates::files),
            ..settings.clone()
        };
        process.send(ToModel::Load(Box::new(load)));
        Ok(Self {
            file: found.file,
            origin,
            alias,
            _links: links,
            process,
            states,
            since: now,
            reloads,
            failed: None,
        })
    }

    /// What to wait for.
    pub fn polls(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.process.polls()
    }

    /// Reads what the process sent, if that is `readable`, and whether it is gone, if a child has
    /// `ended`. `None` as long as the load is under way; after a failure the process has still to end.
    pub fn receive(
        &mut self,
        now: Instant,
        readable: bool,
        ended: bool,
    ) -> Option<Result<Box<Ready>, Failure>> {
        for message in self.process.receive(now, readable, ended) {
            match message {
                FromModel::Ready(ready) => return Some(Ok(ready)),
                FromModel::Refused(reason) => {
                    let reason = self.process.first_error(now).unwrap_or(reason);
                    self.fail(Code::LoadFailed, &reason);
                }
                _ => (),
            }
        }
        if let Some(end) = self.process.end().map(String::from) {
            let reason = self.process.first_error(now).unwrap_or(end);
            self.fail(Code::LoadFailed, &reason);
        }
        self.failed.take().map(Err)
    }

    /// Ends the process if it has taken longer than `limit`; returns when that will be.
    pub fn tick(&mut self, now: Instant, limit: Duration) -> Option<Instant> {
        let process = self.process.tick(now);
        let greeted = self.process.greeted();
        let limit = if greeted {
            limit
        } else {
            limit.min(GREETING_LIMIT)
        };
        let at = self.since + limit;
        if now < at || self.process.end().is_some() {
            return process.into_iter().chain([at]).min();
        }
        let seconds = limit.as_secs();
        let reason = match greeted {
            true => format!("not loaded within {seconds} s"),
            false => format!(
                "{} did not identify itself as a llama-cpp-bridge-model within {seconds} s",
                self.process.program()
            ),
        };
        self.fail(Code::Timeout, &reason);
        Some(now)
    }

    /// Kills the process. The first reason counts.
    fn fail(&mut self, code: Code, reason: &str) {
        let path = self.file.path();
        let failure = failed_to_load(path, code, &self.alias.undo(reason));
        self.failed.get_or_insert(failure);
        self.process.kill(reason.to_string());
    }
}

/// What answers a request whose model cannot be loaded.
pub fn failed_to_load(path: &str, code: Code, reason: &str) -> Failure {
    Failure::new(code, format!("Failed to load model: {path}: {reason}"))
}
