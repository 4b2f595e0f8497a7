//! The saved states of the model that is loaded. Which there are, under which names, and how much room
//! they take is decided here; the model process, which a model file may own, reads those of its own
//! model and writes to a file that was created for it.

mod identity;
mod keeping;
mod old_states;
mod state_dir;

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::Path;

use identity::Identity;
use keeping::NotKept;
use llama_cpp_bridge::shared::failure::Failure;
use llama_cpp_bridge::shared::message::{Answer, Work};
use llama_cpp_bridge::shared::settings::{ModelParams, StateFiles};
use llama_cpp_bridge::shared::state_file::cannot;
use state_dir::StateDir;

/// The answer to a request.
type Outcome = Result<Answer, Failure>;

/// The saved states of a model that is loaded, or about to be.
pub struct ModelStates {
    identity: Identity,
    /// `Err` is why there is none.
    directory: Result<StateDir, String>,
    /// The name of the file that the model process writes to, which no other has.
    scratch: String,
    /// Bytes that all states may take.
    limit: u64,
    /// The SAVE that is under way: its number, and the name of the state.
    saving: Option<(u64, String)>,
}

impl ModelStates {
    /// Those of the model in these files; `None` without a directory of states.
    ///
    /// # Errors
    /// A model file that cannot be read.
    pub fn of(files: &[File], settings: &ModelParams) -> io::Result<Option<Self>> {
        let Some(path) = &settings.state_dir else {
            return Ok(None);
        };
        let identity = Identity::of(files)?;
        Ok(Some(Self {
            directory: StateDir::open(Path::new(path), &identity.name),
            identity,
            scratch: format!("{:016x}", RandomState::new().hash_one(std::process::id())),
            limit: settings.state_limit,
            saving: None,
        }))
    }

    /// What the model process has to know of them.
    pub fn files(&self) -> Option<StateFiles> {
        let directory = self.directory.as_ref().ok()?.own_path();
        Some(StateFiles {
            directory: directory.into_os_string().into_string().ok()?,
            scratch: self.scratch.clone(),
            model_hash: self.identity.hash,
        })
    }

    /// Does what has to be done before the model process gets a request.
    ///
    /// # Errors
    /// Why it cannot be carried out, as the answer to it.
    pub fn prepare(&mut self, id: u64, work: &Work) -> Result<(), Failure> {
        match work {
            Work::Save(name) => {
                let failed = |reason: &str| cannot("save", name, reason);
                let directory = self.directory.as_ref().map_err(|reason| failed(reason))?;
                let created = directory.create(&self.scratch);
                created.map_err(|error| failed(&error.to_string()))?;
                self.saving = Some((id, name.clone()));
                Ok(())
            }
            Work::Restore(name) => {
                let failed = |reason: &String| cannot("read", name, reason);
                let directory = self.directory.as_ref().map_err(failed)?;
                old_states::find(directory, &self.identity, name)
            }
            _ => Ok(()),
        }
    }

    /// Takes in what the model process answers, if that is the SAVE that is under way: the answer
    /// becomes that of the bridge. A state that is no longer `wanted` is not kept.
    ///
    /// # Errors
    /// What the process did that it may not do.
    pub fn settle(
        &mut self,
        id: u64,
        outcome: &mut Outcome,
        wanted: bool,
    ) -> Result<(), &'static str> {
        let Some((_, name)) = self.saving.take_if(|(saving, _)| *saving == id) else {
            return Ok(());
        };
        let Ok(directory) = &self.directory else {
            return Ok(());
        };
        let settled = match outcome {
            Ok(Answer::State(state)) if wanted => {
                directory.keep(&self.scratch, &name, state.bytes, self.limit)
            }
            _ => directory.discard(&self.scratch).map_err(NotKept::Breach),
        };
        match settled {
            Ok(()) => {
                old_states::replaced(directory, &self.identity, &name);
                Ok(())
            }
            Err(NotKept::Failed(failure)) => {
                *outcome = Err(failure);
                Ok(())
            }
            Err(NotKept::Breach(what)) => {
                *outcome = Err(cannot("save", &name, &format!("model process: {what}")));
                Err(what)
            }
        }
    }
}

impl Drop for ModelStates {
    fn drop(&mut self) {
        if let (Some(_), Ok(directory)) = (&self.saving, &self.directory) {
            // The process ends.
            let _ = directory.discard(&self.scratch);
        }
    }
}
