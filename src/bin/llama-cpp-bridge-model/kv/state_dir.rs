//! The directory of saved states: how their files are named, created, found and removed. A state is
//! `NAME.state`; while it is written, `NAME.PID.saving`.

use std::fs::{self, DirEntry, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::sys::files::special_kind;

/// The end of every file of ours, so that nothing else is ever mistaken for one and removed.
pub(super) const MAGIC: [u8; 8] = *b"llcbrst1";

/// The suffix of a state.
const STATE: &str = ".state";

/// The suffix of one that is being written.
const SAVING: &str = ".saving";

/// A file that should be being written but was not for this long was left behind by a process that
/// died.
const ABANDONED: Duration = Duration::from_secs(3600);

/// The directory, and how large it may become.
pub(super) struct StateDir {
    path: PathBuf,
    /// Bytes of all states together.
    limit: u64,
}

/// A state that is being written. The file is removed on drop unless it was [kept](StateDir::keep).
pub(super) struct TempFile {
    /// `None` once it is kept.
    path: Option<PathBuf>,
    /// Readable and writable.
    pub(super) file: File,
}

impl StateDir {
    /// This directory, for at most `limit` bytes.
    pub(super) fn new(path: &str, limit: u64) -> Self {
        let path = PathBuf::from(path);
        Self { path, limit }
    }

    /// Opens a state for reading.
    ///
    /// # Errors
    /// `not_found` if there is none of this name, `bad_request` for something that is not a regular
    /// file, `internal` for other errors of the system.
    pub(super) fn open(&self, name: &str) -> Result<File, Failure> {
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

    /// Whether a state of this size may be kept.
    ///
    /// # Errors
    /// `denied` if it alone exceeds the limit.
    pub(super) fn allows(&self, bytes: u64) -> Result<(), Failure> {
        if bytes <= self.limit {
            return Ok(());
        }
        let message = format!(
            "The state takes {bytes} bytes; --state-limit allows {} for all of them",
            self.limit
        );
        Err(Failure::new(Code::Denied, message))
    }

    /// Creates the file of a state that is to be written.
    ///
    /// # Errors
    /// Those of open(2).
    pub(super) fn create(&self, name: &str) -> io::Result<TempFile> {
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
            // Of an earlier process with our PID.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                fs::remove_file(&path)?;
                create()?
            }
            created => created?,
        };
        let path = Some(path);
        Ok(TempFile { path, file })
    }

    /// Keeps a state that is written and synced under its name; `bytes` is its size. The oldest ones
    /// are removed if the limit is exceeded.
    ///
    /// # Errors
    /// Those of rename(2) and of the sync of the directory.
    pub(super) fn keep(&self, mut temp: TempFile, name: &str, bytes: u64) -> io::Result<()> {
        if let Some(path) = &temp.path {
            fs::rename(path, self.file(name))?;
        }
        temp.path = None;
        // Not before: no state is to be removed for one that is not kept.
        self.evict(name, bytes);
        File::open(&self.path)?.sync_all()
    }

    /// Removes the oldest states until all are within the limit together with the new one of this
    /// name.
    fn evict(&self, name: &str, bytes: u64) {
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

    /// Removes what processes that died while writing left behind.
    fn clean(&self) {
        for entry in self.entries(SAVING) {
            let age = entry.metadata().and_then(|metadata| metadata.modified());
            let age = age.ok().and_then(|time| time.elapsed().ok());
            if age.is_some_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// The entries with this suffix. A directory that cannot be read has none.
    fn entries(&self, suffix: &str) -> impl Iterator<Item = DirEntry> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries.filter(move |entry| {
            let name = entry.file_name();
            name.to_str().is_some_and(|name| name.ends_with(suffix))
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}{STATE}"))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

/// Opens a file for reading; does not follow a symbolic link, nor wait for a FIFO.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Whether a file ends like a state.
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

/// The failure of a file that does not hold a usable state.
pub(super) fn unusable(name: &str, reason: &str) -> Failure {
    Failure::bad_request(format!("The saved state '{name}' cannot be used: {reason}"))
}

/// The failure of the system or of llama.cpp.
pub(super) fn cannot(what: &str, name: &str, reason: &str) -> Failure {
    let message = format!("Cannot {what} the state '{name}': {reason}");
    Failure::new(Code::Internal, message)
}
