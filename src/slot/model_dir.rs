//! The directory that clients' models have to lie in, and files that are opened in it once for all.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use llama_cpp_bridge::sys::files;

/// A directory of models.
pub struct ModelDir {
    /// As it was given.
    given: PathBuf,
    /// Without symbolic links.
    real: PathBuf,
}

/// Why a file in the directory cannot be opened.
#[derive(Debug)]
pub enum NotOpened {
    /// It does not lie there, or nobody is to know whether it is there.
    Outside,
    /// It is missing, or cannot be read.
    Error(io::Error),
}

impl ModelDir {
    /// Looks for the directory.
    ///
    /// # Errors
    /// It does not exist, or is not a directory.
    pub fn open(path: &Path) -> io::Result<Self> {
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
    pub(super) fn path(&self) -> &Path {
        &self.given
    }

    /// Opens a file; a relative path begins in the directory. Symbolic links are followed, but none
    /// that leads out of it. What is opened lies in the directory for certain: nobody can put a
    /// link in its way meanwhile.
    ///
    /// # Errors
    /// It lies elsewhere, or cannot be opened.
    pub(super) fn open_file(&self, path: &str) -> Result<File, NotOpened> {
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

    /// Whether a path that leads nowhere lies in the directory by its name, and leaves it by no
    /// link on the way: nobody is to learn what is there and what is not.
    fn seems_to_hold(&self, path: &Path) -> bool {
        let named = [&self.given, &self.real].map(|top| path.strip_prefix(top));
        let Some(rest) = named.into_iter().find_map(Result::ok) else {
            return false;
        };
        let depth = rest.components().count();
        let climbs = rest.components().any(|part| part == Component::ParentDir);
        let mut on_the_way = path.ancestors().skip(1).take(depth);
        let nearest = on_the_way.find_map(|parent| fs::canonicalize(parent).ok());
        !climbs && nearest.is_none_or(|nearest| nearest.starts_with(&self.real))
    }
}
