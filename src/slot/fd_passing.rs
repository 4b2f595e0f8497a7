//! Files that the bridge has opened and the model process is to load: those very files, whatever
//! has become of their paths meanwhile.

use std::env;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process;

use llama_cpp_bridge::sys::descriptors::inheritable;

/// Where the model process finds the descriptors that it has inherited.
const DESCRIPTORS: &str = if cfg!(target_os = "linux") {
    "/proc/self/fd"
} else {
    "/dev/fd"
};

/// Files on their way to the next process that is started.
pub struct PassedFiles {
    /// What it inherits.
    inherited: Vec<OwnedFd>,
    links: Option<Links>,
    /// Where it finds the file, or the first part.
    pub file: String,
    pub alias: PathAlias,
}

/// What the model process calls a file, and what it was named by.
#[derive(Default)]
pub struct PathAlias {
    inside: String,
    outside: String,
}

/// A directory in which the parts of a split model have the names that llama.cpp looks for:
/// symbolic links to the descriptors. It is removed with this.
pub struct Links(PathBuf);

impl PassedFiles {
    /// Prepares files for being inherited: a model, or the parts of one that is `split`. They were
    /// named by these paths.
    ///
    /// # Errors
    /// There are too many open files, or the links cannot be made.
    pub fn new(files: &[File], paths: &[String], split: bool) -> io::Result<Self> {
        let inherited = files
            .iter()
            .map(inheritable)
            .collect::<io::Result<Vec<_>>>()?;
        let place = |fd: &OwnedFd| format!("{DESCRIPTORS}/{}", fd.as_raw_fd());
        let path = paths.first().cloned().unwrap_or_default();
        let (parent, name) = match path.rfind('/') {
            Some(at) => path.split_at(at + 1),
            None => ("", path.as_str()),
        };
        if !split {
            let file = inherited.first().map(place).unwrap_or_default();
            let alias = PathAlias {
                inside: file.clone(),
                outside: path,
            };
            return Ok(Self {
                inherited,
                links: None,
                file,
                alias,
            });
        }
        let links = Links::new()?;
        for (fd, path) in inherited.iter().zip(paths) {
            let name = Path::new(path).file_name().unwrap_or_default();
            symlink(place(fd), links.0.join(name))?;
        }
        let inside = format!("{}/", links.0.display());
        Ok(Self {
            inherited,
            file: format!("{inside}{name}"),
            alias: PathAlias {
                inside,
                outside: parent.to_string(),
            },
            links: Some(links),
        })
    }

    /// That process is started. What is given back has to stay until it has loaded the model.
    pub fn done(self) -> Option<Links> {
        drop(self.inherited);
        self.links
    }
}

impl PathAlias {
    /// A message of the model process with the name that everybody knows.
    pub fn undo(&self, message: &str) -> String {
        if self.inside.is_empty() {
            return message.to_string();
        }
        message.replace(&self.inside, &self.outside)
    }
}

impl Links {
    fn new() -> io::Result<Self> {
        let mut number = 0;
        loop {
            let name = format!("llama-cpp-bridge.{}.{number}", process::id());
            let path = env::temp_dir().join(name);
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        // Where it cannot be removed it is in nobody's way.
        let _ = fs::remove_dir_all(&self.0);
    }
}
