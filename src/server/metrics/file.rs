//! The file of `--metrics-file`: the same text, for those who cannot ask while a client is served.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use llama_cpp_bridge::sys::files;
use llama_cpp_bridge::sys::log::{self, Level};

/// How often it is written at most.
const SHORTEST: Duration = Duration::from_secs(1);

/// How often it is written at least, so that the age of the file shows that a bridge is gone
/// which nobody was using.
const LONGEST: Duration = Duration::from_secs(60);

/// How often a failure is logged at most.
const LOGGED_AGAIN: Duration = Duration::from_secs(3600);

/// The file. It is removed with this.
pub struct MetricsFile {
    path: PathBuf,
    temporary: PathBuf,
    /// When it was written last, or that was tried.
    written: Instant,
    /// Whether something has happened since.
    stale: bool,
    /// When a failure was last logged.
    logged: Option<Instant>,
}

impl MetricsFile {
    /// Writes the file for the first time.
    ///
    /// # Errors
    /// A sentence: that it cannot be written, or that there is something else than a file.
    pub fn new(path: &Path, text: &str, now: Instant) -> Result<Self, String> {
        let failed = |reason: String| format!("--metrics-file: {}: {reason}", path.display());
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(error) => return Err(failed(error.to_string())),
            // A rename would put a file in the place of /dev/null as well.
            Ok(metadata) => {
                if let Some(what) = files::special_kind(metadata.file_type()) {
                    return Err(failed(format!("is {what}; left alone")));
                }
            }
        }
        let mut temporary = OsString::from(path);
        temporary.push(".tmp");
        let file = Self {
            path: path.to_path_buf(),
            temporary: temporary.into(),
            written: now,
            stale: false,
            logged: None,
        };
        match file.write(text) {
            Ok(()) => Ok(file),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Notes that something has happened.
    pub fn touch(&mut self) {
        self.stale = true;
    }

    /// When it is to be written again.
    fn due(&self) -> Instant {
        self.written + if self.stale { SHORTEST } else { LONGEST }
    }

    /// Writes it anew if it is time, and returns when it will be again. A failure is logged once in
    /// a while; it is tried again.
    pub fn tick(&mut self, text: impl FnOnce() -> String, now: Instant) -> Instant {
        if now < self.due() {
            return self.due();
        }
        self.written = now;
        self.stale = false;
        if let Err(error) = self.write(&text())
            && self
                .logged
                .is_none_or(|logged| now >= logged + LOGGED_AGAIN)
        {
            let message = format!(
                "--metrics-file: {}: {error}; will retry",
                self.path.display()
            );
            log::write(Level::Error, &message);
            self.logged = Some(now);
        }
        self.due()
    }

    /// Puts a new file in the place of the old one, so that nobody reads half of it. It need not be
    /// on disk: after a power failure nobody asks for these numbers.
    fn write(&self, text: &str) -> io::Result<()> {
        match fs::remove_file(&self.temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => (),
        }
        // Whoever collects it is another user.
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&self.temporary)?;
        let written = file.write_all(text.as_bytes());
        let renamed = written.and_then(|()| fs::rename(&self.temporary, &self.path));
        if renamed.is_err() {
            let _ = fs::remove_file(&self.temporary);
        }
        renamed
    }
}

impl Drop for MetricsFile {
    fn drop(&mut self) {
        // Its numbers are not true any more.
        let _ = fs::remove_file(&self.path);
    }
}
