//! This very program, to be started again as a model process.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::system;

/// The running program's own file, even after another has taken its place on disk. Only where
/// `/proc` is mounted.
const RUNNING: &str = "/proc/self/exe";

/// The program's file as it was at the start.
struct Started {
    path: PathBuf,
    identity: (u64, u64, i64, i64),
}

/// What [`remember`] found; nothing where the file could not be found.
static STARTED: OnceLock<Option<Started>> = OnceLock::new();

/// Looks where the program's file is. To be called at the start, before another file can have
/// taken its place.
pub(crate) fn remember() {
    STARTED.get_or_init(|| {
        let path = system::executed_file().or_else(|| env::current_exe().ok())?;
        // Relative paths stay right: the bridge never changes its directory.
        let identity = identity(&path).ok()?;
        Some(Started { path, identity })
    });
}

/// The file to start a further process of this program from. It is never another version of the
/// program: the two processes must understand each other.
///
/// # Errors
/// `/proc` is not mounted, and the program's file cannot be found or is another one by now.
pub(crate) fn path() -> io::Result<PathBuf> {
    if fs::symlink_metadata(RUNNING).is_ok() {
        return Ok(PathBuf::from(RUNNING));
    }
    let Some(started) = STARTED.get().and_then(Option::as_ref) else {
        let message = "the program's own file cannot be found (is /proc mounted?)";
        return Err(io::Error::other(message));
    };
    let shown = started.path.display();
    match identity(&started.path) {
        Ok(now) if now == started.identity => Ok(started.path.clone()),
        Ok(_) => Err(io::Error::other(format!(
            "{shown} is another file than at the start; start the bridge anew"
        ))),
        Err(error) => Err(io::Error::other(format!("{shown}: {error}"))),
    }
}

/// Device, inode and time of modification of a file.
fn identity(path: &Path) -> io::Result<(u64, u64, i64, i64)> {
    let metadata = fs::metadata(path)?;
    Ok((
        metadata.dev(),
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    ))
}
