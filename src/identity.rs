//! Which file a model comes from, and what tells that it is still the same.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};

/// What tells that a file is the one that was loaded.
#[derive(PartialEq, Clone, Debug)]
pub(crate) struct Identity {
    /// As it was given.
    pub(crate) path: String,
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// Looks whether there is a model file at this path at all: llama.cpp says little of one that
/// cannot be read, and a FIFO would hold it for ever.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn identify(path: &str) -> Result<Identity, String> {
    // A device may act on being opened, so the kind of file is looked at before as well as after.
    expect_regular(&fs::metadata(path).map_err(describe)?)?;
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(describe)?;
    let metadata = file.metadata().map_err(describe)?;
    expect_regular(&metadata)?;
    expect_gguf(&mut file)?;
    Ok(Identity {
        path: path.to_string(),
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

fn describe(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_string(),
        io::ErrorKind::PermissionDenied => "permission denied".to_string(),
        _ => error.to_string(),
    }
}

fn expect_regular(metadata: &fs::Metadata) -> Result<(), String> {
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () if kind.is_char_device() => "a character device",
        () if kind.is_block_device() => "a block device",
        () => "not a regular file",
    };
    Err(format!("is {what}, not a GGUF file"))
}

fn expect_gguf(file: &mut File) -> Result<(), String> {
    let mut magic = Vec::new();
    file.take(4).read_to_end(&mut magic).map_err(describe)?;
    match magic.as_slice() {
        b"GGUF" => Ok(()),
        b"" => Err("not a GGUF file: it is empty".to_string()),
        _ => Err("not a GGUF file: it does not start with the letters GGUF".to_string()),
    }
}
