//! The file of a saved state: what llama.cpp writes, then a label, which is a line of JSON that says
//! what the state fits, and last a trailer of fixed size with a checksum over all before it.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use miniserde::{Deserialize, Serialize, json};

use crate::shared::failure::{Code, Failure};
use crate::shared::settings::{FlashAttention, KvType};

/// The version of the file, and of what llama.cpp means by what it writes: raised when either
/// changes.
pub const VERSION: u32 = 1;

/// The end of every file of ours, so that nothing else is ever mistaken for one and removed.
pub const MAGIC: [u8; 8] = *b"llcbrst1";

/// Bytes of the trailer: the length of the label, the checksum, [`MAGIC`].
pub const TRAILER: usize = 4 + 4 + MAGIC.len();

/// How the file of a sequence begins that llama.cpp wrote (`LLAMA_STATE_SEQ_MAGIC`).
const LLAMA_MAGIC: [u8; 4] = *b"qsgg";

/// The most bytes that a label is read with; it has some 300.
const MAX_LABEL: u32 = 4096;

/// What a state is of, and the options that it has to be read back with.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Label {
    /// [`VERSION`].
    pub version: u32,
    /// Bytes of all files of the model.
    pub model_bytes: u64,
    /// A checksum over their sizes and samples of them.
    pub model_hash: u64,
    /// Tokens.
    pub context_size: u32,
    /// The type of the K cache.
    pub cache_type_k: KvType,
    /// The type of the V cache.
    pub cache_type_v: KvType,
    /// llama.cpp lays the values out differently without it.
    pub flash_attn: FlashAttention,
    /// Tokens of the text.
    pub tokens: u32,
    /// How many of the tokens were a prompt.
    pub prompt: u32,
    /// Bytes that llama.cpp wrote.
    pub bytes: u64,
}

/// The end of a file that is a state by its last bytes.
pub struct Trailer {
    size: u64,
    label_length: u32,
    /// The CRC-32 of the first [`summed`](Self::summed) bytes.
    pub checksum: u32,
}

impl Trailer {
    /// That of the file of this size, which holds the state of this name.
    ///
    /// # Errors
    /// `bad_request` for a file that is cut short or something else, `internal` for one that cannot
    /// be read.
    pub fn read(file: &File, size: u64, name: &str) -> Result<Self, Failure> {
        let mut bytes = [0; TRAILER];
        if let Some(offset) = size.checked_sub(TRAILER as u64) {
            let read = file.read_exact_at(&mut bytes, offset);
            read.map_err(|error| unreadable(name, &error))?;
        }
        if !bytes.ends_with(&MAGIC) {
            let mut start = [0; LLAMA_MAGIC.len()];
            let begins = file.read_exact_at(&mut start, 0).is_ok() && start == LLAMA_MAGIC;
            return Err(match begins {
                true => damaged(name, "its end is missing"),
                false => unusable(name, "it is not a saved state"),
            });
        }
        let number =
            |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        Ok(Self {
            size,
            label_length: number(0),
            checksum: number(4),
        })
    }

    /// How many bytes the checksum is of: all but itself and what follows it.
    pub fn summed(&self) -> u64 {
        self.size - (TRAILER - 4) as u64
    }

    /// The label before it.
    ///
    /// # Errors
    /// `bad_request` for one that is damaged or of another version, `internal` for one that cannot
    /// be read.
    pub fn read_label(&self, file: &File, name: &str) -> Result<Label, Failure> {
        let label_end = self.size - TRAILER as u64;
        let label_at = label_end.checked_sub(u64::from(self.label_length));
        let Some(label_at) = label_at.filter(|_| self.label_length <= MAX_LABEL) else {
            return Err(damaged(name, "the length of its label is wrong"));
        };
        let mut label = vec![0; self.label_length as usize];
        let read = file.read_exact_at(&mut label, label_at);
        read.map_err(|error| unreadable(name, &error))?;
        let label = std::str::from_utf8(&label).ok();
        let label = label.and_then(|label| json::from_str::<Label>(label).ok());
        let label = label.ok_or_else(|| unusable(name, "it was written by another version"))?;
        if label.bytes != label_at {
            return Err(damaged(name, "its parts do not fit together"));
        }
        Ok(label)
    }
}

/// Checks that a file of this size is whole, and returns its label.
///
/// # Errors
/// Those of [`Trailer::read`] and [`Trailer::read_label`], and `bad_request` for a wrong checksum.
pub fn read(file: &File, size: u64, name: &str) -> Result<Label, Failure> {
    let trailer = Trailer::read(file, size, name)?;
    let sum = checksum(file, trailer.summed()).map_err(|error| unreadable(name, &error))?;
    if sum != trailer.checksum {
        return Err(damaged(name, "its checksum is wrong"));
    }
    trailer.read_label(file, name)
}

/// Writes the label and the trailer after what llama.cpp wrote, and returns how many bytes the file
/// then has.
///
/// # Errors
/// Those of read(2) and write(2).
pub fn seal(file: &mut File, label: &Label) -> io::Result<u64> {
    file.seek(SeekFrom::Start(label.bytes))?;
    let mut text = json::to_string(label).into_bytes();
    let length = text.len() as u32;
    text.extend(length.to_le_bytes());
    file.write_all(&text)?;
    let summed = label.bytes + text.len() as u64;
    let sum = checksum(file, summed)?;
    let last = [&sum.to_le_bytes()[..], &MAGIC].concat();
    file.write_all(&last)?;
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

/// What sets the label of a state apart from the one that is due here, for a message.
pub fn difference(label: &Label, own: &Label) -> Option<String> {
    let of_model = (label.model_bytes, label.model_hash);
    let spelled = |cache: KvType| format!("{cache:?}").to_lowercase();
    match () {
        () if label.version != own.version => Some(format!(
            "version {}; this bridge writes and reads version {}",
            label.version, own.version
        )),
        () if of_model != (own.model_bytes, own.model_hash) => Some(OTHER_MODEL.to_string()),
        () if label.context_size != own.context_size => Some(format!(
            "a context of {} tokens; this one has {}",
            label.context_size, own.context_size
        )),
        () if label.cache_type_k != own.cache_type_k => Some(format!(
            "a K cache of type {}; this one is {}",
            spelled(label.cache_type_k),
            spelled(own.cache_type_k)
        )),
        () if label.cache_type_v != own.cache_type_v => Some(format!(
            "a V cache of type {}; this one is {}",
            spelled(label.cache_type_v),
            spelled(own.cache_type_v)
        )),
        () if label.flash_attn != own.flash_attn => Some(format!(
            "--flash-attn {}; here it is {}",
            format!("{:?}", label.flash_attn).to_lowercase(),
            format!("{:?}", own.flash_attn).to_lowercase()
        )),
        () => None,
    }
}

/// Looks whether a state of so many bytes may be kept.
///
/// # Errors
/// `denied` if it alone exceeds the limit for all.
pub fn expect_allowed(bytes: u64, limit: u64) -> Result<(), Failure> {
    if bytes <= limit {
        return Ok(());
    }
    let message =
        format!("The state takes {bytes} bytes; --state-limit allows {limit} for all of them");
    Err(Failure::new(Code::Denied, message))
}

/// The failure of a state of another model than the one that is loaded, or of other options.
pub fn unsupported(name: &str, what: &str) -> Failure {
    let message = format!("The saved state '{name}' is of {what}");
    Failure::new(Code::Unsupported, message)
}

/// What a state of another model is of.
pub const OTHER_MODEL: &str = "another model than the one that is loaded";

/// The failure of a file that does not hold a usable state.
pub fn unusable(name: &str, reason: &str) -> Failure {
    Failure::bad_request(format!("The saved state '{name}' cannot be used: {reason}"))
}

/// The failure of a state of which some bytes are not those that were written.
pub fn damaged(name: &str, reason: &str) -> Failure {
    unusable(name, &format!("it is damaged: {reason}"))
}

/// The failure of the system or of llama.cpp.
pub fn cannot(what: &str, name: &str, reason: &str) -> Failure {
    let message = format!("Cannot {what} the state '{name}': {reason}");
    Failure::new(Code::Internal, message)
}

/// The failure of the system to read a state.
pub fn unreadable(name: &str, error: &io::Error) -> Failure {
    cannot("read", name, &error.to_string())
}
