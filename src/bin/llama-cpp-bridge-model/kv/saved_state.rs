//! Saved states: an evaluated text in a file, from which it is read back instead of being
//! evaluated again. The file is what llama.cpp writes, including the tokens, then a label: a line of
//! JSON that says what the state fits, and last a trailer of fixed size with a checksum over all.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::session::LlamaStateSeqFlags;
use llama_cpp_2::token::LlamaToken;
use miniserde::{Deserialize, Serialize, json};

use crate::kv::cells::SeqId;
use crate::kv::fingerprint::Fingerprint;
use crate::kv::prefix_cache::PrefixCache;
use crate::kv::state_dir::{MAGIC, StateDir, cannot, unusable};
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::State;
use llama_cpp_bridge::shared::settings::{self, FlashAttention, ModelParams};
use llama_cpp_bridge::sys;
use llama_cpp_bridge::sys::log::ERROR_MARK;

/// The version of the file, and of what llama.cpp means by what it writes: raised when either
/// changes.
const VERSION: u32 = 1;

/// How the file of a sequence begins that llama.cpp wrote (`LLAMA_STATE_SEQ_MAGIC`).
const LLAMA_MAGIC: [u8; 4] = *b"qsgg";

/// Bytes of the trailer: the length of the label, the checksum, [`MAGIC`].
const TRAILER: usize = 4 + 4 + MAGIC.len();

/// The most bytes that a label is read with; it has some 300.
const MAX_LABEL: u32 = 4096;

/// Bytes per second of a slow disk, and what everything else takes: to announce how long a state may
/// take.
const DISK_SPEED: u64 = 100_000_000;
const OVERHEAD: Duration = Duration::from_millis(100);

/// What a state is of, and the options that it has to be read back with.
#[derive(Serialize, Deserialize, Clone, PartialEq)]
struct Label {
    version: u32,
    model_bytes: u64,
    model_hash: u64,
    context_size: u32,
    cache_type_k: settings::KvType,
    cache_type_v: settings::KvType,
    /// llama.cpp lays the values out differently without it.
    flash_attn: FlashAttention,
    tokens: u32,
    /// How many of the tokens were a prompt.
    prompt: u32,
    /// Bytes that llama.cpp wrote.
    bytes: u64,
}

/// The saved states of a model.
pub struct SavedStates {
    directory: StateDir,
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
    /// Those of the model that was loaded so; `None` without a directory for them.
    ///
    /// # Errors
    /// A model file that can no longer be read.
    pub fn new(load: &ModelParams, context_size: u32) -> Result<Option<Self>, String> {
        let Some(path) = &load.state_dir else {
            return Ok(None);
        };
        let model = Fingerprint::of(&load.file)?;
        Ok(Some(Self {
            directory: StateDir::new(path, load.state_limit),
            label: Label {
                version: VERSION,
                model_bytes: model.bytes,
                model_hash: model.hash,
                context_size,
                cache_type_k: load.cache_type_k,
                cache_type_v: load.cache_type_v,
                flash_attn: load.flash_attn,
                tokens: 0,
                prompt: 0,
                bytes: 0,
            },
        }))
    }

    /// How long it may take to save what a sequence holds.
    pub fn time_to_save(&self, context: &LlamaContext<'_>, seq: SeqId) -> Duration {
        time_for(size_of(context, seq))
    }

    /// Saves what a sequence holds: these tokens, the first `prompt` of which were a prompt.
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
        self.directory.allows(size_of(context, seq) + text)?;
        let label = Label {
            tokens: tokens.len() as u32,
            prompt: prompt as u32,
            ..self.label.clone()
        };
        let failed = |error: io::Error| cannot("save", name, &error.to_string());
        let mut file = self.directory.create(name).map_err(failed)?;
        let bytes = write(&mut file.file, context, seq, tokens, label)
            .map_err(|reason| cannot("save", name, &reason))?;
        self.directory.allows(bytes)?;
        file.file.sync_all().map_err(failed)?;
        self.directory.keep(file, name, bytes).map_err(failed)?;
        let tokens = tokens.len() as u32;
        Ok(State { tokens, bytes })
    }

    /// Finds a state.
    ///
    /// # Errors
    /// `not_found` and others of a file that cannot be opened.
    pub fn open(&self, name: &str) -> Result<OpenState, Failure> {
        let file = self.directory.open(name)?;
        let metadata = file.metadata();
        let metadata = metadata.map_err(|error| cannot("read", name, &error.to_string()))?;
        Ok(OpenState {
            name: name.to_string(),
            file,
            size: metadata.len(),
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
        let label = saved.check()?;
        if let Some(what) = label.difference(&self.label) {
            let message = format!("The saved state '{name}' is of {what}");
            return Err(Failure::new(Code::Unsupported, message));
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

    /// Checks that the file is whole, and returns its label.
    fn check(&self) -> Result<Label, Failure> {
        let damaged = |what: &str| unusable(&self.name, &format!("it is damaged: {what}"));
        let failed = |error: io::Error| cannot("read", &self.name, &error.to_string());
        let mut trailer = [0; TRAILER];
        let trailer_at = self.size.checked_sub(TRAILER as u64);
        if let Some(offset) = trailer_at {
            self.file
                .read_exact_at(&mut trailer, offset)
                .map_err(failed)?;
        }
        if !trailer.ends_with(&MAGIC) {
            let mut start = [0; LLAMA_MAGIC.len()];
            let begins = self.file.read_exact_at(&mut start, 0).is_ok() && start == LLAMA_MAGIC;
            return Err(match begins {
                true => damaged("its end is missing"),
                false => unusable(&self.name, "it is not a saved state"),
            });
        }
        let number = |i: usize| {
            u32::from_le_bytes([trailer[i], trailer[i + 1], trailer[i + 2], trailer[i + 3]])
        };
        // All but the checksum itself and what follows it.
        let summed = self.size - (TRAILER - 4) as u64;
        if checksum(&self.file, summed).map_err(failed)? != number(4) {
            return Err(damaged("its checksum is wrong"));
        }
        let length = number(0);
        let label_at = trailer_at.and_then(|offset| offset.checked_sub(u64::from(length)));
        let Some(label_at) = label_at.filter(|_| length <= MAX_LABEL) else {
            return Err(damaged("the length of its label is wrong"));
        };
        let mut label = vec![0; length as usize];
        self.file
            .read_exact_at(&mut label, label_at)
            .map_err(failed)?;
        let label = std::str::from_utf8(&label).ok();
        let label = label.and_then(|label| json::from_str::<Label>(label).ok());
        let label =
            label.ok_or_else(|| unusable(&self.name, "it was written by another version"))?;
        if label.bytes != label_at {
            return Err(damaged("its parts do not fit together"));
        }
        Ok(label)
    }
}

impl Label {
    /// What sets it apart from this one, for a message.
    fn difference(&self, own: &Self) -> Option<String> {
        let of_model = (self.model_bytes, self.model_hash);
        let spelled = |cache: settings::KvType| format!("{cache:?}").to_lowercase();
        match () {
            () if self.version != own.version => Some(format!(
                "version {}; this bridge writes and reads version {}",
                self.version, own.version
            )),
            () if of_model != (own.model_bytes, own.model_hash) => {
                Some("another model than the one that is loaded".to_string())
            }
            () if self.context_size != own.context_size => Some(format!(
                "a context of {} tokens; this one has {}",
                self.context_size, own.context_size
            )),
            () if self.cache_type_k != own.cache_type_k => Some(format!(
                "a K cache of type {}; this one is {}",
                spelled(self.cache_type_k),
                spelled(own.cache_type_k)
            )),
            () if self.cache_type_v != own.cache_type_v => Some(format!(
                "a V cache of type {}; this one is {}",
                spelled(self.cache_type_v),
                spelled(own.cache_type_v)
            )),
            () if self.flash_attn != own.flash_attn => Some(format!(
                "--flash-attn {}; here it is {}",
                format!("{:?}", self.flash_attn).to_lowercase(),
                format!("{:?}", own.flash_attn).to_lowercase()
            )),
            () => None,
        }
    }
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
    let label = json::to_string(&Label { bytes, ..label });
    file.seek(SeekFrom::Start(bytes)).map_err(text)?;
    let mut label = label.into_bytes();
    let length = label.len() as u32;
    label.extend(length.to_le_bytes());
    file.write_all(&label).map_err(text)?;
    let summed = bytes + label.len() as u64;
    let sum = checksum(file, summed).map_err(text)?;
    let last = [&sum.to_le_bytes()[..], &MAGIC].concat();
    file.write_all(&last).map_err(text)?;
    Ok(summed + last.len() as u64)
}

/// The CRC-32 of the first bytes of a file.
fn checksum(file: &File, mut left: u64) -> io::Result<u32> {
    let mut sum = crc32fast::Hasher::new();
    let mut chunk = vec![0; 1 << 18];
    let mut at = 0;
    while left > 0 {
        let length = left.min(chunk.len() as u64) as usize;
        file.read_exact_at(&mut chunk[..length], at)?;
        sum.update(&chunk[..length]);
        at += length as u64;
        left -= length as u64;
    }
    Ok(sum.finalize())
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
