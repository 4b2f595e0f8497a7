//! Which file a model came from, so that it is known whether a path still names it.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use super::model_dir::{ModelDir, NotOpened};
use llama_cpp_bridge::shared::failure::Code;
use llama_cpp_bridge::shared::split_files::further_parts;
use llama_cpp_bridge::sys::files::special_kind;

/// The identity of a model's file, and of each of its parts.
#[derive(PartialEq, Clone, Debug)]
pub struct ModelFile {
    path: String,
    /// The file itself, and the further parts of one that is split.
    files: Vec<FileStamp>,
}

/// What changes when another file takes the place of one, or it is written to.
#[derive(PartialEq, Clone, Debug)]
struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// A model file that is there.
pub struct Found {
    pub file: ModelFile,
    /// The file and its further parts, opened, where it had to lie in a directory; else none.
    pub opened: Vec<File>,
    /// The path of each of them.
    pub paths: Vec<String>,
}

/// Why there is no model to be loaded at a path.
pub struct Refusal {
    pub code: Code,
    /// What is wrong with the file, without its path, or with a further part, with its path.
    pub reason: String,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        let code = Code::LoadFailed;
        Self { code, reason }
    }
}

impl ModelFile {
    /// Checks that there is a model file at this path at all: llama.cpp reports little of one that
    /// cannot be read, and a FIFO would hold it for ever. Of a file whose name says that it is the
    /// first of several, `NAME-00001-of-0000N.gguf`, all parts count. With a directory, all have
    /// to lie in it.
    ///
    /// # Errors
    /// What is wrong with the file; `denied` for one that lies elsewhere.
    pub fn of(path: &str, directory: Option<&ModelDir>) -> Result<Found, Refusal> {
        let (stamp, file) = first(path, directory)?;
        let mut found = Found {
            file: Self {
                path: path.to_string(),
                files: vec![stamp],
            },
            opened: file.into_iter().collect(),
            paths: vec![path.to_string()],
        };
        for part in further_parts(path) {
            let named = |reason: String| Refusal::from(format!("{part}{reason}"));
            let opened = match directory {
                None => fs::metadata(&part).map(|metadata| (metadata, None)),
                Some(directory) => match directory.open_file(&part) {
                    Ok(file) => file.metadata().map(|metadata| (metadata, Some(file))),
                    Err(NotOpened::Error(error)) => Err(error),
                    Err(NotOpened::Outside) => return Err(outside(directory)),
                },
            };
            match opened {
                Ok((metadata, file)) => {
                    expect_regular(&metadata).map_err(|reason| named(format!(" {reason}")))?;
                    found.file.files.push(FileStamp::of(&metadata));
                    found.opened.extend(file);
                    found.paths.push(part);
                }
                // The name may mislead. llama.cpp goes by what is in the first part, and names
                // the one that it misses.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(named(format!(": {}", describe(error)))),
            }
        }
        Ok(found)
    }

    /// Whether it is, by its name, the first of several files.
    pub fn is_split(&self) -> bool {
        further_parts(&self.path).next().is_some()
    }

    /// Bytes of all its files.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// The path, as it was given.
    pub fn path(&self) -> &str {
        &self.path
    }
}

fn outside(directory: &ModelDir) -> Refusal {
    Refusal {
        code: Code::Denied,
        reason: format!(
            "only models in {} can be loaded here",
            directory.path().display()
        ),
    }
}

impl FileStamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// The file at the path, which has to begin as a GGUF file does; opened for good if it has to lie
/// in a directory.
fn first(path: &str, directory: Option<&ModelDir>) -> Result<(FileStamp, Option<File>), Refusal> {
    let mut file = match directory {
        None => open(path)?,
        Some(directory) => match directory.open_file(path) {
            Ok(file) => file,
            Err(NotOpened::Error(error)) => return Err(describe(error).into()),
            Err(NotOpened::Outside) => return Err(outside(directory)),
        },
    };
    let metadata = file.metadata().map_err(describe)?;
    expect_regular(&metadata)?;
    expect_gguf(&mut file)?;
    Ok((FileStamp::of(&metadata), directory.map(|_| file)))
}

fn open(path: &str) -> Result<File, String> {
    // A device may act on being opened, so the kind of file is looked at before as well as after.
    expect_regular(&fs::metadata(path).map_err(describe)?)?;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    options.open(path).map_err(describe)
}

fn describe(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_string(),
        io::ErrorKind::PermissionDenied => "permission denied".to_string(),
        _ => error.to_string(),
    }
}

fn expect_regular(metadata: &Metadata) -> Result<(), String> {
    match special_kind(metadata.file_type()) {
        None => Ok(()),
        Some(what) => Err(format!("is {what}, not a GGUF file")),
    }
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
