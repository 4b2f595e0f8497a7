//! What becomes of a state that a model process has written: it is moved out of its reach, looked at,
//! and kept in the place of the one before, or removed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::SystemTime;

use super::state_dir::{CHECKING, StateDir};
use llama_cpp_bridge::shared::failure::Failure;
use llama_cpp_bridge::shared::settings::state_name;
use llama_cpp_bridge::shared::state_file::{MAGIC, cannot, expect_allowed};
use llama_cpp_bridge::sys::lease::is_open_for_writing;

/// Why a state is not kept.
pub enum NotKept {
    /// It could not be.
    Failed(Failure),
    /// The model process did not do what it said: what it did.
    Breach(&'static str),
}

/// What is wrong with a process that has not closed its file.
const STILL_OPEN: &str = "a state is still open for writing after its answer";

impl StateDir {
    /// Keeps the state that was written to `scratch` under its name, on disk. The model process says
    /// that it has so many bytes. The oldest states are removed if all are more than the limit.
    ///
    /// # Errors
    /// Why it is not kept; the one before is still there then, unless the disk failed at last.
    pub fn keep(&self, scratch: &str, name: &str, bytes: u64, limit: u64) -> Result<(), NotKept> {
        let failed = |error: io::Error| NotKept::Failed(cannot("save", name, &error.to_string()));
        // Whoever has it open now is seen; who has not can open it no more.
        let checking = self.withdraw(scratch).map_err(failed)?;
        let file = self.own.file(&checking).map_err(failed);
        let kept = file
            .and_then(|file| check(&file, bytes, limit, failed))
            .and_then(|()| {
                let renamed = self.own.rename(&checking, &self.own, &state_name(name));
                renamed.map_err(failed)
            });
        if kept.is_err() {
            let _ = self.own.remove(&checking);
            return kept;
        }
        // Not before: no state is to be removed for one that is not kept.
        self.sync().map_err(failed)?;
        self.evict(&state_name(name), bytes, limit);
        self.clean();
        Ok(())
    }

    /// Removes what was written to `scratch`.
    ///
    /// # Errors
    /// What the model process did that still has it open.
    pub fn discard(&self, scratch: &str) -> Result<(), &'static str> {
        let Ok(checking) = self.withdraw(scratch) else {
            let _ = self.saving.remove(scratch);
            return Ok(());
        };
        let file = self.own.file(&checking);
        let _ = self.own.remove(&checking);
        match file.and_then(|file| is_open_for_writing(&file)) {
            Ok(true) => Err(STILL_OPEN),
            _ => Ok(()),
        }
    }

    /// Moves a file to where no model process can open it for writing, not even through another
    /// descriptor of it.
    fn withdraw(&self, scratch: &str) -> io::Result<String> {
        let checking = format!("{scratch}{CHECKING}");
        self.saving.rename(scratch, &self.own, &checking)?;
        Ok(checking)
    }

    /// Removes the oldest states of all models until all are within the limit together with the new
    /// one of this file and size.
    fn evict(&self, new: &str, bytes: u64, limit: u64) {
        let mut others: Vec<Kept> = Vec::new();
        for directory in self.directories() {
            others.extend(self.kept(&directory));
        }
        others.retain(|other| other.directory != self.identity() || other.name != new);
        others.sort();
        let mut sum = bytes + others.iter().map(|other| other.bytes).sum::<u64>();
        for other in others {
            if sum <= limit {
                return;
            }
            let directory = self.root.directory(&other.directory);
            if directory
                .and_then(|within| within.remove(&other.name))
                .is_ok()
            {
                sum -= other.bytes;
            }
        }
    }

    /// The states in a directory. One that cannot be read has none.
    fn kept(&self, directory: &str) -> Vec<Kept> {
        let Ok(within) = self.root.directory(directory) else {
            return Vec::new();
        };
        let kept = self.state_names(directory).filter_map(|name| {
            let (modified, bytes) = dated(&within.file(&name).ok()?).ok()??;
            Some(Kept {
                modified,
                directory: directory.to_string(),
                name,
                bytes,
            })
        });
        kept.collect()
    }
}

/// A state that is kept; the oldest first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Kept {
    modified: SystemTime,
    directory: String,
    name: String,
    bytes: u64,
}

/// Looks at a state that was written: that it is whole and nobody's but ours, and not too large.
fn check(
    file: &File,
    bytes: u64,
    limit: u64,
    failed: impl Fn(io::Error) -> NotKept,
) -> Result<(), NotKept> {
    // Where it cannot be told, as on a network's file system, it is believed.
    if is_open_for_writing(file).unwrap_or(false) {
        return Err(NotKept::Breach(STILL_OPEN));
    }
    let Some((_, size)) = dated(file).map_err(&failed)? else {
        return Err(NotKept::Breach("what was written is not a state"));
    };
    if size != bytes {
        return Err(NotKept::Breach("a state of another size than was written"));
    }
    expect_allowed(size, limit).map_err(NotKept::Failed)
}

/// When a state was written, and its size; `None` for a file that does not end like one.
fn dated(file: &File) -> io::Result<Option<(SystemTime, u64)>> {
    let metadata = file.metadata()?;
    let size = metadata.len();
    let mut end = [0; MAGIC.len()];
    let Some(at) = size.checked_sub(end.len() as u64) else {
        return Ok(None);
    };
    if !metadata.is_file() {
        return Ok(None);
    }
    file.read_exact_at(&mut end, at)?;
    match end == MAGIC {
        true => Ok(Some((metadata.modified()?, size))),
        false => Ok(None),
    }
}
