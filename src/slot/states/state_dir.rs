//! The directory of saved states: a directory for each model, by its [identity](super::identity), in
//! which a state is `NAME.state`. While a model process writes it, it is a file in `saving`, the one
//! place where such a process may write; from there it is moved first, and then looked at.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::iter;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::settings::{SAVING, STATE_SUFFIX, state_name};
use llama_cpp_bridge::shared::state_file::{unreadable, unusable};
use llama_cpp_bridge::sys::directory::Directory;
use llama_cpp_bridge::sys::files::special_kind;
use llama_cpp_bridge::sys::process::user;

/// The suffix of a state that has still to be looked at.
pub(super) const CHECKING: &str = ".checking";

/// The suffix of one that a process of version 0.1 was writing.
const OLD_SAVING: &str = ".saving";

/// A file that should be being written but was not for this long was left behind, where locks do not
/// tell.
const ABANDONED: Duration = Duration::from_secs(3600);

/// How often, and how long each time, a directory is waited for that another bridge cleans.
const CLEANING: (u32, Duration) = (20, Duration::from_millis(1));

/// The states of a model, and those of all others.
pub struct StateDir {
    path: PathBuf,
    identity: String,
    pub(super) root: Directory,
    /// That of this model. It is locked, shared with other bridges, as long as it is in use.
    pub(super) own: Directory,
    pub(super) saving: Directory,
}

impl StateDir {
    /// The directory of the model of this identity, made if need be, in the one at this path. What a
    /// bridge that died has left there is removed.
    ///
    /// # Errors
    /// That it cannot be made, or is something else.
    pub fn open(path: &Path, identity: &str) -> Result<Self, String> {
        let own_path = path.join(identity);
        let named = |error: io::Error| match fs::symlink_metadata(&own_path) {
            Ok(metadata) if !metadata.is_dir() => {
                let kind = special_kind(metadata.file_type()).unwrap_or("a file");
                format!("{} is {kind}, not a directory", own_path.display())
            }
            _ => error.to_string(),
        };
        let root = Directory::open(path).map_err(|error| error.to_string())?;
        clean(&root, path, identity);
        let own = open_locked(&root, identity).map_err(named)?;
        expect_ours(&own, &own_path)?;
        let saving_path = own_path.join(SAVING);
        let saving = make(&own, SAVING).and_then(|()| own.directory(SAVING));
        let saving = saving.map_err(|error| format!("{}: {error}", saving_path.display()))?;
        expect_ours(&saving, &saving_path)?;
        Ok(Self {
            path: path.to_path_buf(),
            identity: identity.to_string(),
            root,
            own,
            saving,
        })
    }

    /// The path of the directory of this model.
    pub fn own_path(&self) -> PathBuf {
        self.path.join(&self.identity)
    }

    /// The identity of this model.
    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    /// Creates the file for the state that is to be written.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn create(&self, scratch: &str) -> io::Result<()> {
        let created = match self.saving.create(scratch) {
            // Nobody else has this name.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.saving.remove(scratch)?;
                self.saving.create(scratch)
            }
            created => created,
        };
        created.map(drop)
    }

    /// Whether another model has a state of this name.
    pub(super) fn others_have(&self, name: &str) -> bool {
        let file = state_name(name);
        let mut others = self.identities().filter(|other| *other != self.identity);
        others.any(|other| fs::symlink_metadata(self.path.join(other).join(&file)).is_ok())
    }

    /// The directories of all states, by their names in the root, which is one of them.
    pub(super) fn directories(&self) -> impl Iterator<Item = String> {
        iter::once(".".to_string()).chain(self.identities())
    }

    /// The names of the files in one of these directories that may be states.
    pub(super) fn state_names(&self, directory: &str) -> impl Iterator<Item = String> {
        let names = names(&self.path.join(directory));
        names.filter(|name| name.ends_with(STATE_SUFFIX))
    }

    /// Removes what processes that died while writing left behind, and directories without a state
    /// that no bridge uses.
    pub(super) fn clean(&self) {
        for identity in self.identities() {
            clean(&self.root, &self.path, &identity);
        }
        for name in names(&self.path).filter(|name| name.ends_with(OLD_SAVING)) {
            remove_abandoned(&self.root, &name);
        }
    }

    /// Puts names that were given or taken on the disk.
    ///
    /// # Errors
    /// Those of fsync(2).
    pub(super) fn sync(&self) -> io::Result<()> {
        self.own.itself().sync_all()?;
        self.root.itself().sync_all()
    }

    fn identities(&self) -> impl Iterator<Item = String> {
        names(&self.path).filter(|name| super::identity::is_identity(name))
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        let _ = self.own.itself().unlock();
        clean(&self.root, &self.path, &self.identity);
    }
}

/// Opens the file of a state in a directory; `None` if there is none of this name.
///
/// # Errors
/// `bad_request` for something that is not a regular file, `internal` for other errors of the
/// system.
pub(super) fn look(directory: &Directory, name: &str) -> Result<Option<File>, Failure> {
    let opened = directory.file(&state_name(name)).and_then(|file| {
        let kind = file.metadata()?.file_type();
        Ok((file, special_kind(kind)))
    });
    match opened {
        Ok((file, None)) => Ok(Some(file)),
        Ok((_, Some(kind))) => Err(unusable(name, &format!("it is {kind}"))),
        Err(error) => match error.raw_os_error() {
            Some(libc::ELOOP) => Err(unusable(name, "it is a symbolic link")),
            _ if error.kind() == ErrorKind::NotFound => Ok(None),
            _ => Err(unreadable(name, &error)),
        },
    }
}

/// The failure of a state that is nowhere.
pub(super) fn not_found(name: &str) -> Failure {
    Failure::new(Code::NotFound, format!("There is no saved state '{name}'"))
}

/// Refuses a directory of another user, who could put states into it: which one a model has can be
/// computed by anybody.
fn expect_ours(directory: &Directory, path: &Path) -> Result<(), String> {
    let metadata = directory.itself().metadata();
    let owner = metadata.map_err(|error| error.to_string())?.uid();
    if owner == user() {
        return Ok(());
    }
    let path = path.display();
    Err(format!(
        "{path} belongs to uid {owner}, not to the user of the bridge"
    ))
}

/// Makes a directory unless it is there.
fn make(within: &Directory, name: &str) -> io::Result<()> {
    match within.make_directory(name) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Makes a directory unless it is there, and locks it so that no other bridge removes it.
fn open_locked(root: &Directory, name: &str) -> io::Result<Directory> {
    let (tries, pause) = CLEANING;
    for _ in 0..tries {
        make(root, name)?;
        let directory = root.directory(name)?;
        // A file system without locks has none that clean it either.
        let locked = !matches!(
            directory.itself().try_lock_shared(),
            Err(TryLockError::WouldBlock)
        );
        if locked && directory.itself().metadata()?.nlink() > 0 {
            return Ok(directory);
        }
        thread::sleep(pause);
    }
    Err(io::Error::from(ErrorKind::WouldBlock))
}

/// Removes what was left behind in the directory of a model that no bridge uses, and the directory
/// itself if it has no states.
fn clean(root: &Directory, path: &Path, identity: &str) {
    let Ok(directory) = root.directory(identity) else {
        return;
    };
    let unused = match directory.itself().try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => return,
        Err(TryLockError::Error(_)) => false,
    };
    let remove = |from: &Directory, name: &str| match unused {
        true => drop(from.remove(name)),
        false => remove_abandoned(from, name),
    };
    let path = path.join(identity);
    for name in names(&path).filter(|name| name.ends_with(CHECKING)) {
        remove(&directory, &name);
    }
    if let Ok(saving) = directory.directory(SAVING) {
        names(&path.join(SAVING)).for_each(|name| remove(&saving, &name));
    }
    if unused {
        // Not if there is something in them.
        let _ = directory.remove_directory(SAVING);
        let _ = root.remove_directory(identity);
    }
}

/// Removes a file that nobody has written to for long.
fn remove_abandoned(directory: &Directory, name: &str) {
    let modified = directory.file(name).and_then(|file| file.metadata());
    let modified = modified.and_then(|metadata| metadata.modified());
    let age = modified.ok().and_then(|time| time.elapsed().ok());
    if age.is_some_and(|age| age > ABANDONED) {
        let _ = directory.remove(name);
    }
}

/// The names in a directory that are text. One that cannot be read has none.
fn names(path: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}
