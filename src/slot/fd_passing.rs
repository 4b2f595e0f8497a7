//! Files that the bridge has opened and the model process is to load: those very files, whatever
//! has become of their paths meanwhile.

use std::env;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use llama_cpp_bridge::sys::descriptors::inheritable;
use llama_cpp_bridge::sys::process::user;

/// Where the model process finds the descriptors that it has inherited.
const DESCRIPTORS: &str = if cfg!(target_os = "linux") {
    "/proc/self/fd"
} else {
    "/dev/fd"
};

/// Files on their way to the next process that is started.
pub struct PassedFiles {
    /// What it inherits.
    inherited: Vec<OwnedFd>,
    links: Option<Links>,
    /// Where it finds the file, or the first part.
    pub file: String,
    pub alias: PathAlias,
}

/// What the model process calls a file, and what it was named by.
#[derive(Clone, Default)]
pub struct PathAlias {
    inside: String,
    outside: String,
}

/// A directory in which the parts of a split model have the names that llama.cpp looks for:
/// symbolic links to the descriptors. It is removed with this, or by a later bridge if this one is
/// killed.
pub struct Links {
    path: PathBuf,
    /// The directory, locked as long as it is in use.
    _lock: File,
}

/// How often at most the name is put into a message. It may be 300 times as long as the alias, and the
/// model process may write that as often as it likes.
const MOST_UNDONE: usize = 4;

/// How the names of such directories begin, in the directory for temporary files. The user and a number
/// follow, the first that is free: so those of bridges that were killed are found without a look at
/// all that lies there.
const LINKS: &str = "llama-cpp-bridge.";

/// How many of them are looked at: more than there are bridges of one user that load at once.
const LOOKED_AT: u64 = 64;

impl PassedFiles {
    /// Whether a process can open again what it has inherited, as /proc is there.
    pub fn possible() -> bool {
        Path::new(DESCRIPTORS).is_dir()
    }

    /// Prepares files for being inherited: a model, or the parts of one that is `split`. They were
    /// named by these paths.
    ///
    /// # Errors
    /// There are too many open files, or the links cannot be made.
    pub fn new(files: Vec<File>, paths: &[String], split: bool) -> io::Result<Self> {
        // One after the other, so that there is never more than one descriptor too many.
        let inherited = files.into_iter().map(|file| inheritable(&file));
        let inherited = inherited.collect::<io::Result<Vec<_>>>()?;
        let place = |fd: &OwnedFd| format!("{DESCRIPTORS}/{}", fd.as_raw_fd());
        let path = paths.first().cloned().unwrap_or_default();
        let (parent, name) = match path.rfind('/') {
            Some(at) => path.split_at(at + 1),
            None => ("", path.as_str()),
        };
        if !split {
            let file = inherited.first().map(place).unwrap_or_default();
            let alias = PathAlias {
                inside: file.clone(),
                outside: path,
            };
            return Ok(Self {
                inherited,
                links: None,
                file,
                alias,
            });
        }
        let links = Links::new()?;
        for (fd, path) in inherited.iter().zip(paths) {
            let name = Path::new(path).file_name().unwrap_or_default();
            symlink(place(fd), links.path.join(name))?;
        }
        let inside = format!("{}/", links.path.display());
        Ok(Self {
            inherited,
            file: format!("{inside}{name}"),
            alias: PathAlias {
                inside,
                outside: parent.to_string(),
            },
            links: Some(links),
        })
    }

    /// That process is started. What is given back has to stay until it has loaded the model.
    pub fn done(self) -> Option<Links> {
        drop(self.inherited);
        self.links
    }
}

impl PathAlias {
    /// A message of the model process with the name that everybody knows, the first times that the
    /// model is named in it.
    pub fn undo(&self, message: &str) -> String {
        if self.inside.is_empty() {
            return message.to_string();
        }
        let mut parts = message.splitn(MOST_UNDONE + 1, &self.inside);
        let mut text = parts.next().unwrap_or_default().to_string();
        for part in parts {
            // `/proc/self/fd/8` is not the beginning of `/proc/self/fd/80`.
            let longer = part.starts_with(|next: char| next.is_ascii_digit());
            let whole = self.inside.ends_with('/') || !longer;
            text.push_str(if whole { &self.outside } else { &self.inside });
            text.push_str(part);
        }
        text
    }
}

impl Links {
    fn new() -> io::Result<Self> {
        Self::remove_abandoned();
        let failed = |error: io::Error| {
            let folder = env::temp_dir();
            let folder = folder.display();
            let message = format!("no directory for a split model in {folder} (TMPDIR): {error}");
            io::Error::other(message)
        };
        for path in (0..LOOKED_AT).map(place) {
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => (),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(failed(error)),
            }
            match lock(&path) {
                Ok(Some(lock)) => return Ok(Self { path, _lock: lock }),
                // Until it is locked another bridge may take it for abandoned.
                Ok(None) => (),
                // So would it be with the next one.
                Err(error) => {
                    let _ = fs::remove_dir(&path);
                    return Err(failed(error));
                }
            }
        }
        Err(failed(io::Error::from(io::ErrorKind::AlreadyExists)))
    }

    /// Removes those of bridges that were killed while they loaded a model.
    pub fn remove_abandoned() {
        for path in (0..LOOKED_AT).map(place) {
            let ours = |metadata: Metadata| metadata.is_dir() && metadata.uid() == user();
            if fs::symlink_metadata(&path).is_ok_and(ours)
                && let Ok(Some(_lock)) = lock(&path)
            {
                let _ = fs::remove_dir_all(&path);
            }
        }
    }
}

/// The path of such a directory of this user.
fn place(number: u64) -> PathBuf {
    env::temp_dir().join(format!("{LINKS}{}.{number}", user()))
}

/// Locks a directory; `None` if somebody else has, or has removed it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    let directory = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let file = match options.read(true).custom_flags(directory).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    match file.try_lock() {
        Ok(()) => (),
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let held = file.metadata()?;
    let is_held = |named: Metadata| (held.dev(), held.ino()) == (named.dev(), named.ino());
    Ok(fs::symlink_metadata(path)
        .is_ok_and(is_held)
        .then_some(file))
}

impl Drop for Links {
    fn drop(&mut self) {
        // Where it cannot be removed it is in nobody's way.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST_UNDONE, PathAlias};

    #[test]
    fn only_the_whole_alias_is_undone() {
        let alias = |inside: &str, outside: &str| PathAlias {
            inside: inside.to_string(),
            outside: outside.to_string(),
        };
        let file = alias("/fd/8", "/m/a.gguf");
        let said = "/fd/8: /fd/80 /fd/8, '/fd/8";
        assert_eq!(file.undo(said), "/m/a.gguf: /fd/80 /m/a.gguf, '/m/a.gguf");
        let parts = alias("/tmp/x.1.0/", "models/");
        let said = "/tmp/x.1.0/1-00001-of-00002.gguf";
        assert_eq!(parts.undo(said), "models/1-00001-of-00002.gguf");
        assert_eq!(PathAlias::default().undo("as it is"), "as it is");
        let many = file.undo(&"/fd/8 ".repeat(1000));
        assert_eq!(many.matches("/m/a.gguf").count(), MOST_UNDONE);
        assert_eq!(many.matches("/fd/8").count(), 1000 - MOST_UNDONE);
    }
}
