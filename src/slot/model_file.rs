//! Which file a model came from, so that it is known whether a path still names it.

use std::fmt::{self, Display, Formatter};
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
    /// The file and its further parts, opened.
    pub opened: Vec<File>,
    /// The path of each of them.
    pub paths: Vec<String>,
    /// Whether they had to lie in a directory.
    pub confined: bool,
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
        let refuse = |fault: Fault| match (fault, directory) {
            (Fault::Outside, Some(directory)) => outside(directory),
            (fault, _) => Refusal::from(fault.to_string()),
        };
        let (stamp, mut file) = open(path, directory).map_err(refuse)?;
        expect_gguf(&mut file)?;
        let mut found = Found {
            file: Self {
                path: path.to_string(),
                files: vec![stamp],
            },
            opened: vec![file],
            paths: vec![path.to_string()],
            confined: directory.is_some(),
        };
        for part in further_parts(path) {
            match open(&part, directory) {
                Ok((stamp, file)) => {
                    found.file.files.push(stamp);
                    found.opened.push(file);
                    found.paths.push(part);
                }
                // The name may mislead. llama.cpp goes by what is in the first part, and names
                // the one that it misses.
                Err(Fault::System(error)) if error.kind() == io::ErrorKind::NotFound => break,
                Err(Fault::Outside) => return Err(refuse(Fault::Outside)),
                Err(fault @ Fault::System(_)) => return Err(format!("{part}: {fault}").into()),
                Err(fault @ Fault::Kind(_)) => return Err(format!("{part} {fault}").into()),
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

/// Why a file is not opened.
enum Fault {
    /// It does not lie in the directory.
    Outside,
    System(io::Error),
    /// It is of another kind.
    Kind(&'static str),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside => write!(f, "lies elsewhere"),
            Self::System(error) => write!(f, "{}", describe(error)),
            Self::Kind(kind) => write!(f, "is {kind}, not a GGUF file"),
        }
    }
}

/// Opens the file at a path, which has to lie in the directory if there is one.
fn open(path: &str, directory: Option<&ModelDir>) -> Result<(FileStamp, File), Fault> {
    let file = match directory {
        None => {
            // A device may act on being opened, so its kind is looked at before as well as after.
            expect_regular(&fs::metadata(path)?)?;
            let mut options = OpenOptions::new();
            options.read(true).custom_flags(libc::O_NONBLOCK);
            options.open(path)?
        }
        Some(directory) => directory.open_file(path).map_err(|error| match error {
            NotOpened::Error(error) => Fault::System(error),
            NotOpened::Outside => Fault::Outside,
        })?,
    };
    let metadata = file.metadata()?;
    expect_regular(&metadata)?;
    Ok((FileStamp::of(&metadata), file))
}

fn expect_regular(metadata: &Metadata) -> Result<(), Fault> {
    match special_kind(metadata.file_type()) {
        None => Ok(()),
        Some(kind) => Err(Fault::Kind(kind)),
    }
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_string(),
        io::ErrorKind::PermissionDenied => "permission denied".to_string(),
        _ => error.to_string(),
    }
}

fn expect_gguf(file: &mut File) -> Result<(), String> {
    let mut magic = Vec::new();
    let read = file.take(4).read_to_end(&mut magic);
    read.map_err(|error| describe(&error))?;
    match magic.as_slice() {
        b"GGUF" => Ok(()),
        b"" => Err("not a GGUF file: it is empty".to_string()),
        _ => Err("not a GGUF file: it does not start with the letters GGUF".to_string()),
    }
}
