//! The program that runs llama.cpp: found and opened when the bridge starts, so that what was
//! opened is what runs, whatever becomes of its path.

use std::env;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use llama_cpp_bridge::sys;

/// The name of its file, next to the bridge's own and in [`LIBEXEC`].
const NAME: &str = "llama-cpp-bridge-model";

/// Where it is installed, as seen from the bridge's folder.
const LIBEXEC: &str = "../libexec/llama-cpp-bridge";

/// Permission bit of writing, for a group and for everybody.
const GROUP_WRITES: u32 = 0o020;
const ALL_WRITE: u32 = 0o002;

/// The model program, opened.
#[derive(Clone, Debug)]
pub struct ModelProgram {
    path: PathBuf,
    pub(super) file: Rc<File>,
    /// What would show that it has been written to since: bytes, and the time of the last change.
    written: (u64, i64, i64),
    /// Whether an interpreter has to open it by its descriptor.
    pub(super) is_script: bool,
}

impl ModelProgram {
    /// Opens the program that was named, else the first one found: next to the bridge, then where
    /// it is installed, and of several there the one for the newest processor that this one is.
    ///
    /// # Errors
    /// A sentence: there is none, it is not a program, or others could have changed it.
    pub fn open(named: Option<&Path>) -> Result<Self, String> {
        if let Some(path) = named {
            return Self::open_file(path)
                .map_err(|reason| format!("--model-program: {}: {reason}", path.display()));
        }
        let places = places()?;
        let Some(path) = places.iter().find(|path| path.exists()) else {
            let looked: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
            return Err(format!(
                "no model program: looked for {} (--model-program names another)",
                looked.join(", ")
            ));
        };
        Self::open_file(path).map_err(|reason| format!("{}: {reason}", path.display()))
    }

    fn open_file(path: &Path) -> Result<Self, String> {
        let mut file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "no such file".to_string(),
            io::ErrorKind::PermissionDenied => "cannot be read: permission denied".to_string(),
            _ => error.to_string(),
        })?;
        let metadata = file.metadata().map_err(|error| error.to_string())?;
        if let Some(what) = sys::files::special_kind(metadata.file_type()) {
            return Err(format!("is {what}, not a program"));
        }
        let (mode, owner) = (metadata.mode(), metadata.uid());
        if mode & 0o111 == 0 {
            return Err(format!("is not executable (mode {:04o})", mode & 0o7777));
        }
        let own = env::current_exe().and_then(fs::metadata).ok();
        if own.as_ref().is_some_and(|own| same_file(own, &metadata)) {
            return Err(format!(
                "is the bridge itself; the model program is called {NAME}"
            ));
        }
        // Who can change the bridge's own file may as well: in a user namespace root is another
        // user.
        let trusted = [
            Some(0),
            Some(sys::process::user()),
            own.map(|own| own.uid()),
        ];
        if !trusted.contains(&Some(owner)) {
            return Err(format!(
                "belongs to uid {owner}; it must belong to root, to the user of the bridge, or to the \
                 owner of the bridge's file"
            ));
        }
        // A group of one user has that user's number, and root's group is root.
        let group_is_private = metadata.gid() == 0 || metadata.gid() == owner;
        if mode & ALL_WRITE != 0 || mode & GROUP_WRITES != 0 && !group_is_private {
            return Err(format!(
                "writable by others (mode {:04o}); chmod go-w it",
                mode & 0o7777
            ));
        }
        let mut start = [0; 2];
        let is_script = file.read_exact(&mut start).is_ok() && start == *b"#!";
        Ok(Self {
            path: path.to_path_buf(),
            written: stamp(&metadata),
            file: Rc::new(file),
            is_script,
        })
    }

    /// Looks whether what was opened is still what it was: a file can be written over in its place.
    ///
    /// # Errors
    /// A sentence, or that of fstat(2).
    pub(super) fn expect_unchanged(&self) -> io::Result<()> {
        if stamp(&self.file.metadata()?) == self.written {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{} has been modified since the bridge started; restart the bridge",
            self.path.display()
        )))
    }

    /// Its path, for people: the file that was opened may be gone from there.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn stamp(metadata: &Metadata) -> (u64, i64, i64) {
    (metadata.size(), metadata.mtime(), metadata.mtime_nsec())
}

fn same_file(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Where it may be, the first before the others.
fn places() -> Result<Vec<PathBuf>, String> {
    // Without /proc there is still the path that the bridge was started by.
    let own = env::current_exe()
        .or_else(|error| sys::process::executed_file().ok_or(error))
        .map_err(|error| format!("the bridge's own file cannot be found: {error}"))?;
    let folder = own.parent().unwrap_or(Path::new("/"));
    let libexec = folder.join(LIBEXEC);
    // Shorter in messages, where it is there at all.
    let libexec = fs::canonicalize(&libexec).unwrap_or(libexec);
    let installed = levels()
        .into_iter()
        .map(|level| libexec.join(format!("{NAME}-{level}")))
        .chain([libexec.join(NAME)]);
    Ok([folder.join(NAME)].into_iter().chain(installed).collect())
}

/// The levels of this processor, by the names of the x86-64 psABI that glibc's hwcaps have, too;
/// the newest first.
fn levels() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let v2 = is_x86_feature_detected!("sse4.2")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("ssse3");
        let v3 = v2
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("movbe");
        let v4 = v3
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        let all = [(v4, "x86-64-v4"), (v3, "x86-64-v3"), (v2, "x86-64-v2")];
        let had = all.into_iter().filter(|(has, _)| *has);
        had.map(|(_, level)| level).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}
