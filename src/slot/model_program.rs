//! The program that runs llama.cpp: found and opened when the bridge starts, so that what was opened
//! is what runs, whatever becomes of its path.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use llama_cpp_bridge::sys;

/// What its file is called, beside the bridge's own and in [`LIBEXEC`].
const NAME: &str = "llama-cpp-bridge-model";

/// Where it is installed, as seen from the bridge's folder.
const LIBEXEC: &str = "../libexec/llama-cpp-bridge";

/// Permission bits by which others than the owner could put another program in its place.
const WRITABLE: u32 = 0o022;

/// The model program, opened.
#[derive(Clone, Debug)]
pub(crate) struct ModelProgram {
    pub(super) path: PathBuf,
    pub(super) file: Rc<File>,
    /// Whether an interpreter has to open it by its descriptor.
    pub(super) is_script: bool,
}

impl ModelProgram {
    /// Opens the program that was named, else the first one there is: beside the bridge, then where it
    /// is installed, and of several there the one for the newest processor that this one is.
    ///
    /// # Errors
    /// A sentence: there is none, it is not a program, or others could have changed it.
    pub(crate) fn open(named: Option<&Path>) -> Result<Self, String> {
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
        if owner != 0 && owner != sys::process::user() {
            return Err(format!(
                "belongs to uid {owner}; it must belong to root or to the user of the bridge"
            ));
        }
        if mode & WRITABLE != 0 {
            return Err(format!(
                "others can write to it (mode {:04o}); chmod go-w it",
                mode & 0o7777
            ));
        }
        let mut start = [0; 2];
        let is_script = file.read_exact(&mut start).is_ok() && start == *b"#!";
        Ok(Self {
            path: path.to_path_buf(),
            file: Rc::new(file),
            is_script,
        })
    }

    /// Its path, for people: the file that was opened may be gone from there.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
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

/// The levels of this processor, by the names of the x86-64 psABI that glibc's hwcaps have, too; the
/// newest first.
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
