//! `--preload`: model files that the system is asked to read into its cache, so that a later LOAD
//! finds them in memory. A piece at a time, between all else that the bridge does.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use llama_cpp_bridge::sys::descriptors::will_need;
use llama_cpp_bridge::sys::files;
use llama_cpp_bridge::sys::log::{self, Level};
use llama_cpp_bridge::sys::memory::{Available, shown};

/// Bytes that are asked for at a time: what the kernel sends to a disk at once, so that the bridge
/// is back in a moment.
const PIECE: u64 = 2 << 20;

/// How long to leave the processor to others between two pieces.
const PAUSE: Duration = Duration::from_millis(2);

/// Of the memory that is available, the part that is left alone: a sixteenth.
const SPARED: u64 = 16;

/// What is still to be read, and how.
pub struct Preload {
    /// In their order; a directory is replaced by what is in it.
    waiting: Vec<PathBuf>,
    /// The file that is being asked for, and how far.
    current: Option<Current>,
    /// Bytes that may still be asked for; `None` where nobody knows.
    budget: Option<u64>,
    next: Option<Instant>,
}

struct Current {
    path: PathBuf,
    file: File,
    size: u64,
    done: u64,
}

impl Preload {
    /// Begins with these files and directories.
    pub fn new(paths: &[PathBuf], now: Instant) -> Self {
        let mut waiting: Vec<PathBuf> = paths.iter().flat_map(|path| files(path)).collect();
        waiting.reverse();
        let budget = Available::now().map(|it| it.bytes - it.bytes / SPARED);
        Self {
            next: (!waiting.is_empty()).then_some(now),
            waiting,
            current: None,
            budget,
        }
    }

    /// When [`turn`](Self::turn) has to be called again.
    pub fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Asks for the next piece, if it is time.
    pub fn turn(&mut self, now: Instant) {
        if self.next.is_none_or(|at| now < at) {
            return;
        }
        match &mut self.current {
            Some(current) if current.done < current.size => {
                let length = PIECE.min(current.size - current.done);
                match will_need(&current.file, current.done, length) {
                    Ok(()) => current.done += length,
                    Err(error) => {
                        tell(Level::Warning, &current.path, &error.to_string());
                        self.current = None;
                    }
                }
            }
            Some(current) => {
                let size = shown(current.size);
                tell(Level::Info, &current.path, &format!("{size} asked for"));
                self.current = None;
            }
            None => self.begin(),
        }
        let over = self.current.is_none() && self.waiting.is_empty();
        self.next = (!over).then_some(now + PAUSE);
    }

    /// Takes the next file, if there is memory for it.
    fn begin(&mut self) {
        let Some(path) = self.waiting.pop() else {
            return;
        };
        let (file, size) = match open(&path) {
            Ok(opened) => opened,
            Err(reason) => return tell(Level::Warning, &path, &reason),
        };
        if let Some(left) = &mut self.budget {
            if size > *left {
                let (size, left) = (shown(size), shown(*left));
                let message = format!("not read: {size}, and memory for {left} is left");
                return tell(Level::Warning, &path, &message);
            }
            *left -= size;
        }
        self.current = Some(Current {
            path,
            file,
            size,
            done: 0,
        });
    }
}

fn tell(level: Level, path: &Path, what: &str) {
    log::write(level, &format!("--preload: {}: {what}", path.display()));
}

/// A file itself, or the models in a directory by name, not those below it.
fn files(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_path_buf()];
    }
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => {
            tell(Level::Warning, path, &error.to_string());
            return Vec::new();
        }
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let model = |path: &PathBuf| path.extension().is_some_and(|end| end == "gguf");
    let mut models: Vec<PathBuf> = paths.filter(model).collect();
    models.sort();
    if models.is_empty() {
        tell(Level::Warning, path, "there is no *.gguf in it");
    }
    models
}

fn open(path: &Path) -> Result<(File, u64), String> {
    let mut options = File::options();
    // A FIFO would hold the bridge.
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    match files::special_kind(metadata.file_type()) {
        None => Ok((file, metadata.size())),
        Some(what) => Err(format!("is {what}, not a regular file")),
    }
}
