//! The token that a bridge may want to see first.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::failure::Failure;

/// The environment variable that names the file of the token.
pub(crate) const FILE_VARIABLE: &str = "LLAMBO_AUTH_FILE";

/// Bytes of the file that are read: a token is much shorter.
const LIMIT: u64 = 64 * 1024;

/// The first token in a file that nobody else can read.
pub(crate) fn token(path: &OsStr) -> Result<String, Failure> {
    let path = Path::new(path);
    let wrong =
        |reason: String| Failure::Usage(format!("--auth-file: {}: {reason}", path.display()));
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let metadata = file.metadata().map_err(|error| wrong(error.to_string()))?;
    let mode = metadata.mode() & 0o7777;
    // A pipe, as <(pass show bridge) is one, has no permissions that say anything.
    if metadata.is_file() && mode & 0o077 != 0 {
        return Err(wrong(format!(
            "others than its owner have access to it (mode {mode:04o}), so it is no secret; \
             make that 0600"
        )));
    }
    let mut text = String::new();
    file.take(LIMIT)
        .read_to_string(&mut text)
        .map_err(|error| wrong(error.to_string()))?;
    let token = text.lines().find(|line| !line.is_empty());
    let token = token.ok_or_else(|| wrong("holds no token".to_string()))?;
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong(
            "its first line is no token: one consists of visible ASCII characters, without blanks"
                .to_string(),
        ));
    }
    Ok(token.to_string())
}
