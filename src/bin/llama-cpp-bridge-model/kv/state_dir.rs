//! The directory of saved states: how their files are called, and how they come, are found and go.
//! A name is `NAME.state`; while it is written, `NAME.PID.saving`.

use std::fs::{self, DirEntry, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::sys::files::special_kind;

/// How a file of ours ends, so that nothing else is ever taken for one and removed.
pub(crate) const MAGIC: [u8; 8] = *b"llcbrst1";

/// Stands behind the name of a state.
const STATE: &str = ".state";

/// Stands behind that of one that is being written.
const SAVING: &str = ".saving";

/// A file that is being written and was not for so long is what a process that died left behind.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);

/// The directory, and what it may take.
pub(crate) struct StateDir {
    path: PathBuf,
    /// Bytes of all states together.
    limit: u64,
}

/// A state that is being written. Its file is removed with this unless it was
/// [kept](StateDir::keep).
pub(crate) struct Draft {
    /// `None` once it is kept.
    path: Option<PathBuf>,
    /// Readable and writable.
    pub(crate) file: File,
}

impl StateDir {
    /// This directory, for so many bytes.
    pub(crate) fn new(path: &str, limit: u64) -> Self {
        let path = PathBuf::from(path);
        Self { path, limit }
    }

    /// Opens a state to be read.
    ///
    /// # Errors
    /// `not_found` if there is none of this name, `bad_request` for something that is no regular
    /// file, `internal` for what the system says otherwise.
    pub(crate) fn open(&self, name: &str) -> Result<File, Failure> {
        let opened = open(&self.file(name)).and_then(|file| {
            let kind = file.metadata()?.file_type();
            Ok((file, special_kind(kind)))
        });
        match opened {
            Ok((file, None)) => Ok(file),
            Ok((_, Some(kind))) => Err(unusable(name, &format!("it is {kind}"))),
            Err(error) => match error.raw_os_error() {
                Some(libc::ELOOP) => Err(unusable(name, "it is a symbolic link")),
                _ if error.kind() == ErrorKind::NotFound => {
                    let message = format!("There is no saved state '{name}'");
                    Err(Failure::new(Code::NotFound, message))
                }
                _ => Err(cannot("read", name, &error.to_string())),
            },
        }
    }

    /// Whether a state of so many bytes may be kept.
    ///
    /// # Errors
    /// `denied` if it alone takes more than all may.
    pub(crate) fn allows(&self, bytes: u64) -> Result<(), Failure> {
        if bytes <= self.limit {
            return Ok(());
        }
        let message = format!(
            "The state takes {bytes} bytes; --state-limit allows {} for all of them",
            self.limit
        );
        Err(Failure::new(Code::Denied, message))
    }

    /// Makes the file of a state that is to be written.
    ///
    /// # Errors
    /// Those of open(2).
    pub(crate) fn draft(&self, name: &str) -> io::Result<Draft> {
        let path = format!("{name}.{}{SAVING}", std::process::id());
        let path = self.path.join(path);
        let create = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path)
        };
        let file = match create() {
            // Of a process before us that had our number.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                fs::remove_file(&path)?;
                create()?
            }
            created => created?,
        };
        let path = Some(path);
        Ok(Draft { path, file })
    }

    /// Keeps a state that is written and synced, of so many bytes, under its name; the oldest
    /// ones make room.
    ///
    /// # Errors
    /// Those of rename(2) and of the sync of the directory.
    pub(crate) fn keep(&self, mut draft: Draft, name: &str, bytes: u64) -> io::Result<()> {
        if let Some(path) = &draft.path {
            fs::rename(path, self.file(name))?;
        }
        draft.path = None;
        // Not before: nothing is to go for a state that does not come.
        self.make_room(name, bytes);
        File::open(&self.path)?.sync_all()
    }

    /// Removes the oldest states until the new one of this name, of so many bytes, is within the
    /// limit.
    fn make_room(&self, name: &str, bytes: u64) {
        let own = self.file(name);
        let mut others: Vec<(SystemTime, PathBuf, u64)> = self
            .entries(STATE)
            .filter(|entry| entry.path() != own && is_ours(&entry.path()))
            .filter_map(|entry| {
                let metadata = entry.metadata().ok()?;
                Some((metadata.modified().ok()?, entry.path(), metadata.len()))
            })
            .collect();
        others.sort();
        let mut sum: u64 = bytes + others.iter().map(|(_, _, bytes)| bytes).sum::<u64>();
        for (_, path, bytes) in others {
            if sum <= self.limit {
                break;
            }
            if fs::remove_file(path).is_ok() {
                sum -= bytes;
            }
        }
        self.clean();
    }

    /// Removes what processes left behind that died while they wrote.
    fn clean(&self) {
        for entry in self.entries(SAVING) {
            let age = entry.metadata().and_then(|metadata| metadata.modified());
            let age = age.ok().and_then(|time| time.elapsed().ok());
            if age.is_some_and(|age| age > LEFT_BEHIND) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// The entries whose names end so. A directory that cannot be read has none.
    fn entries(&self, ending: &str) -> impl Iterator<Item = DirEntry> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries.filter(move |entry| {
            let name = entry.file_name();
            name.to_str().is_some_and(|name| name.ends_with(ending))
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}{STATE}"))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

/// Opens a file to be read: neither a link, nor one that would be waited for.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Whether a file ends as states do.
fn is_ours(path: &Path) -> bool {
    let read = || -> io::Result<bool> {
        let mut file = open(path)?;
        let regular = file.metadata()?.is_file();
        let mut end = [0; MAGIC.len()];
        file.seek(SeekFrom::End(-(MAGIC.len() as i64)))?;
        file.read_exact(&mut end)?;
        Ok(regular && end == MAGIC)
    };
    read().unwrap_or(false)
}

/// A file that holds no state that can be used.
pub(crate) fn unusable(name: &str, reason: &str) -> Failure {
    Failure::bad_request(format!("The saved state '{name}' cannot be used: {reason}"))
}

/// What the system, or llama.cpp, does not do.
pub(crate) fn cannot(what: &str, name: &str, reason: &str) -> Failure {
    let message = format!("Cannot {what} the state '{name}': {reason}");
    Failure::new(Code::Internal, message)
}
