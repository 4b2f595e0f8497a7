//! Identifies a model by what is in its files, whatever their names: a copy is the same model.
//!
//! It decides which saved states a model process may read, so no file may be given the identity of
//! another. What a hostile file attacks is the code that parses its metadata and the list of its
//! tensors; both lie at its start, and all of that is in the sum, as is how much there is of each
//! file. A file that agrees with another in all of this is parsed as that one is: what can differ are
//! weights, which are numbers that are multiplied. Of these there are samples, in which a model that
//! was trained further differs, without anybody's intent.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use hmac_sha256::Hash;

/// What sets this use of SHA-256 apart from others, and its versions from each other.
const PURPOSE: &[u8] = b"llama-cpp-bridge model 1\0";

/// Bytes of the start of the first file. Metadata and the list of tensors take less in the largest
/// models, by an estimate of a vocabulary of 262,144 tokens with half a million merges. A mebibyte
/// more takes 4.4 ms, in which the bridge does nothing else.
const START: u64 = 16 << 20;

/// Bytes of the start of a further part, which has metadata of its own, but no vocabulary.
const FURTHER_START: u64 = 1 << 20;

/// Bytes of a sample: a page of the page cache.
const SAMPLE: u64 = 4096;

/// Samples of a file: a mebibyte in all.
const SAMPLES: u64 = 256;

/// What distinguishes models.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// In 32 hexadecimal digits.
    pub name: String,
    /// Bytes of all files.
    pub bytes: u64,
    /// The checksum of version 0.1, over the size and the samples of each file, which the labels of
    /// states have. It can be forged.
    pub hash: u64,
}

impl Identity {
    /// Of the model in these files, the first of which is the one that is loaded.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn of(files: &[File]) -> io::Result<Self> {
        let sizes = files.iter().map(|file| Ok(file.metadata()?.len()));
        let sizes: Vec<u64> = sizes.collect::<io::Result<_>>()?;
        let mut sums = Sums::new();
        sums.sha.update(PURPOSE);
        sums.sha.update((files.len() as u64).to_le_bytes());
        for size in &sizes {
            sums.sha.update(size.to_le_bytes());
        }
        for (i, (file, size)) in files.iter().zip(&sizes).enumerate() {
            let start = if i == 0 { START } else { FURTHER_START };
            sums.add_start(file, start.min(*size))?;
        }
        for (file, size) in files.iter().zip(&sizes) {
            sums.add_samples(file, *size)?;
        }
        let digest = sums.sha.finalize();
        Ok(Self {
            name: digest[..16].iter().map(|b| format!("{b:02x}")).collect(),
            bytes: sizes.iter().sum(),
            hash: sums.fnv,
        })
    }
}

/// Whether this is how an identity is written.
pub fn is_identity(name: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    name.len() == 32 && name.bytes().all(digit)
}

/// The sum that cannot be forged, and that of 0.1: FNV-1a.
struct Sums {
    sha: Hash,
    fnv: u64,
}

impl Sums {
    fn new() -> Self {
        Self {
            sha: Hash::new(),
            fnv: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// Adds the first bytes of a file.
    fn add_start(&mut self, file: &File, length: u64) -> io::Result<()> {
        let mut chunk = vec![0; 1 << 18];
        let mut at = 0;
        while at < length {
            let step = (length - at).min(chunk.len() as u64) as usize;
            file.read_exact_at(&mut chunk[..step], at)?;
            self.sha.update(&chunk[..step]);
            at += step as u64;
        }
        Ok(())
    }

    /// Adds samples of a file of this size: evenly spread from the first byte on, and the end.
    fn add_samples(&mut self, file: &File, size: u64) -> io::Result<()> {
        self.add_to_fnv(&size.to_le_bytes());
        let step = size.div_ceil(SAMPLES).max(SAMPLE);
        let mut sample = [0; SAMPLE as usize];
        for at in (0..size)
            .step_by(step as usize)
            .chain([size.saturating_sub(SAMPLE)])
        {
            let length = SAMPLE.min(size - at) as usize;
            file.read_exact_at(&mut sample[..length], at)?;
            self.sha.update(&sample[..length]);
            self.add_to_fnv(&sample[..length]);
        }
        Ok(())
    }

    fn add_to_fnv(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.fnv = (self.fnv ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests;
