//! The directory that clients' models have to lie in, and files that are opened in it once for all.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::system::files;

/// A directory of models.
pub(crate) struct ModelDir {
    /// As it was given.
    given: PathBuf,
    /// Without symbolic links.
    real: PathBuf,
}

/// Why a file in the directory cannot be opened.
#[derive(Debug)]
pub(crate) enum NotOpened {
    /// It does not lie there, or nobody is to know whether it is there.
    Outside,
    /// It is missing, or cannot be read.
    Error(io::Error),
}

impl ModelDir {
    /// Looks for the directory.
    ///
    /// # Errors
    /// It is not there, or is no directory.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let real = fs::canonicalize(path)?;
        if !fs::metadata(&real)?.is_dir() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory));
        }
        Ok(Self {
            given: std::path::absolute(path)?,
            real,
        })
    }

    /// The directory as it was given.
    pub(crate) fn path(&self) -> &Path {
        &self.given
    }

    /// Opens a file; a relative path begins in the directory. Symbolic links are followed, but none
    /// that leads out of it. What is opened lies in the directory for certain: nobody can put a
    /// link in its way meanwhile.
    ///
    /// # Errors
    /// It lies elsewhere, or cannot be opened.
    pub(crate) fn open_file(&self, path: &str) -> Result<File, NotOpened> {
        let path = self.given.join(path);
        let real = match fs::canonicalize(&path) {
            Ok(real) => real,
            Err(error) if self.seems_to_hold(&path) => return Err(NotOpened::Error(error)),
            Err(_) => return Err(NotOpened::Outside),
        };
        if !real.starts_with(&self.real) {
            return Err(NotOpened::Outside);
        }
        files::open_without_links(&real).map_err(NotOpened::Error)
    }

    /// Whether a path lies in the directory by its name.
    fn seems_to_hold(&self, path: &Path) -> bool {
        let climbs = path.components().any(|part| part == Component::ParentDir);
        !climbs && (path.starts_with(&self.given) || path.starts_with(&self.real))
    }
}
