//! Saved states: an evaluated text in a file, from which it is read back instead of being
//! evaluated again. Which file that is, and what becomes of it, is the bridge's business.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::session::LlamaStateSeqFlags;
use llama_cpp_2::token::LlamaToken;

use crate::kv::cells::SeqId;
use crate::kv::prefix_cache::PrefixCache;
use llama_cpp_bridge::shared::failure::Failure;
use llama_cpp_bridge::shared::message::State;
use llama_cpp_bridge::shared::settings::{ModelParams, StateFiles};
use llama_cpp_bridge::shared::state_file::{
    self, Label, VERSION, cannot, expect_allowed, unreadable, unsupported,
};
use llama_cpp_bridge::sys;
use llama_cpp_bridge::sys::log::ERROR_MARK;

/// Bytes per second of a slow disk, and what everything else takes: to announce how long a state may
/// take.
const DISK_SPEED: u64 = 100_000_000;
const OVERHEAD: Duration = Duration::from_millis(100);

/// The saved states of a model.
pub struct SavedStates {
    files: StateFiles,
    /// Bytes that a state may take.
    limit: u64,
    /// That of a state without tokens.
    label: Label,
}

/// A state that was found, with its open file.
pub struct OpenState {
    name: String,
    file: File,
    size: u64,
}

impl SavedStates {
    /// Those of the model that was loaded so; `None` where the bridge has no place for them.
    pub fn new(load: &ModelParams, context_size: u32) -> Option<Self> {
        let files = load.states.clone()?;
        Some(Self {
            label: Label {
                version: VERSION,
                model_bytes: load.size,
                model_hash: files.model_hash,
                context_size,
                cache_type_k: load.cache_type_k,
                cache_type_v: load.cache_type_v,
                flash_attn: load.flash_attn,
                tokens: 0,
                prompt: 0,
                bytes: 0,
            },
            files,
            limit: load.state_limit,
        })
    }

    /// How long it may take to save what a sequence holds.
    pub fn time_to_save(&self, context: &LlamaContext<'_>, seq: SeqId) -> Duration {
        time_for(size_of(context, seq))
    }

    /// Writes what a sequence holds to the file that the bridge has created for it: these tokens,
    /// the first `prompt` of which were a prompt. The file is closed and on disk then.
    ///
    /// # Errors
    /// `denied` for more than the directory may take, `internal` for what the system says.
    pub fn save(
        &self,
        name: &str,
        context: &LlamaContext<'_>,
        seq: SeqId,
        tokens: &[LlamaToken],
        prompt: usize,
    ) -> Result<State, Failure> {
        let text = size_of_val(tokens) as u64;
        expect_allowed(size_of(context, seq) + text, self.limit)?;
        let label = Label {
            tokens: tokens.len() as u32,
            prompt: prompt as u32,
            ..self.label.clone()
        };
        let failed = |error: io::Error| cannot("save", name, &error.to_string());
        let mut file = open(&self.files.scratch(), true).map_err(failed)?;
        let bytes = write(&mut file, context, seq, tokens, label)
            .map_err(|reason| cannot("save", name, &reason))?;
        file.sync_all().map_err(failed)?;
        let tokens = tokens.len() as u32;
        Ok(State { tokens, bytes })
    }

    /// Opens a state that the bridge has found.
    ///
    /// # Errors
    /// `internal`: it cannot be opened.
    pub fn open(&self, name: &str) -> Result<OpenState, Failure> {
        let failed = |error: io::Error| unreadable(name, &error);
        let file = open(&self.files.state(name), false).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        Ok(OpenState {
            name: name.to_string(),
            file,
            size,
        })
    }

    /// Reads a state into the context. Nothing changes there before the whole file has been checked;
    /// then what was kept there is parked.
    ///
    /// # Errors
    /// `bad_request` for a file that is damaged or not a state, `unsupported` for one of another
    /// model or other options, `internal` if llama.cpp does not take it.
    pub fn restore(
        &self,
        saved: OpenState,
        context: &mut LlamaContext<'_>,
        cache: &mut PrefixCache,
    ) -> Result<State, Failure> {
        let name = &saved.name;
        let label = state_file::read(&saved.file, saved.size, name)?;
        if let Some(what) = state_file::difference(&label, &self.label) {
            return Err(unsupported(name, &what));
        }
        let n_tokens = label.tokens as usize;
        let no_space = || cannot("restore", name, "it does not fit the context");
        let seq = cache.vacate_for(context, n_tokens).ok_or_else(no_space)?;
        let path = path_of(&saved.file);
        let (read, log) = sys::watched_call::capture_errors(|| {
            context.state_seq_load_file(&path, seq.raw(), n_tokens)
        });
        let Ok((tokens, _)) = read else {
            let _ = context.clear_kv_cache_seq(Some(seq.raw() as u32), None, None);
            return Err(cannot("restore", name, &reason(&log)));
        };
        cache.fill(seq, &tokens, label.prompt as usize);
        Ok(State {
            tokens: label.tokens,
            bytes: saved.size,
        })
    }
}

impl OpenState {
    /// How long it may take to restore it.
    pub fn time_to_restore(&self) -> Duration {
        time_for(self.size)
    }
}

/// Opens a file, which `writes` says is to be written as well; does not follow a symbolic link, nor
/// wait for a FIFO.
fn open(path: &Path, writes: bool) -> io::Result<File> {
    let mut options = File::options();
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options.read(true).write(writes).open(path)
}

/// Writes the whole file, and returns how many bytes it has.
fn write(
    file: &mut File,
    context: &LlamaContext<'_>,
    seq: SeqId,
    tokens: &[LlamaToken],
    label: Label,
) -> Result<u64, String> {
    let path = path_of(file);
    let (written, log) =
        sys::watched_call::capture_errors(|| context.state_seq_save_file(&path, seq.raw(), tokens));
    let bytes = written.map_err(|_| reason(&log))? as u64;
    let text = |error: io::Error| error.to_string();
    // llama.cpp does not check whether the last bytes could be written.
    let there = file.metadata().map_err(text)?.len();
    if there != bytes {
        return Err(format!("only {there} of {bytes} bytes could be written"));
    }
    state_file::seal(file, &Label { bytes, ..label }).map_err(text)
}

/// A path by which llama.cpp can open a file that is open here, whatever has become of its name.
fn path_of(file: &File) -> String {
    let number = file.as_raw_fd();
    if cfg!(target_os = "linux") {
        format!("/proc/self/fd/{number}")
    } else {
        format!("/dev/fd/{number}")
    }
}

/// Bytes of the state of a sequence.
fn size_of(context: &LlamaContext<'_>, seq: SeqId) -> u64 {
    context.state_seq_get_size_ext(seq.raw(), LlamaStateSeqFlags::empty()) as u64
}

fn time_for(bytes: u64) -> Duration {
    OVERHEAD + Duration::from_millis(bytes * 1000 / DISK_SPEED)
}

/// Why llama.cpp failed, by the first error that it logged.
fn reason(log: &str) -> String {
    let mut lines = log.lines();
    let error = lines.find_map(|line| line.strip_prefix(ERROR_MARK));
    let error = error.unwrap_or("llama.cpp failed (no reason given)");
    error.to_string()
}
