//! Identifies a model, whatever the name of its file, by the sizes of its files and samples of their
//! bytes. A copy is the same model; one that was trained further is not, as its weights differ
//! everywhere.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use llama_cpp_bridge::shared::split_files;

/// Bytes of a sample: a page of the page cache.
const SAMPLE: u64 = 4096;

/// Samples of a file: a mebibyte in all, which takes a millisecond right after the load.
const SAMPLES: u64 = 256;

/// What distinguishes models: the total size of the files, and a checksum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fingerprint {
    /// Bytes of all files.
    pub(super) bytes: u64,
    /// Over the size and the samples of each file.
    pub(super) hash: u64,
}

impl Fingerprint {
    /// Of the model at this path, with all its parts.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(super) fn of(path: &str) -> Result<Self, String> {
        let mut sum = Sum::new();
        let mut bytes = 0;
        for part in split_files::parts(path) {
            let read = read_samples(&part, &mut sum);
            bytes += read.map_err(|error| format!("{part}: {error}"))?;
        }
        let hash = sum.0;
        Ok(Self { bytes, hash })
    }
}

/// Adds the size of a file and its samples to the sum: evenly spread from the first byte on, and
/// the end. Returns the size.
fn read_samples(path: &str, sum: &mut Sum) -> io::Result<u64> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    sum.add(&size.to_le_bytes());
    let step = size.div_ceil(SAMPLES).max(SAMPLE);
    let mut sample = [0; SAMPLE as usize];
    for at in (0..size)
        .step_by(step as usize)
        .chain([size.saturating_sub(SAMPLE)])
    {
        let length = SAMPLE.min(size - at) as usize;
        file.read_exact_at(&mut sample[..length], at)?;
        sum.add(&sample[..length]);
    }
    Ok(size)
}

/// An FNV-1a hash, which is the same in each version of this program; the standard library's is not. It
/// need not resist attacks: whoever can write saved states need not forge a model.
struct Sum(u64);

impl Sum {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
