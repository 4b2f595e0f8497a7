//! Files of tokens: those that a bridge knows, and the one that a client shows.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

/// Largest file, in bytes: far more tokens than any host needs.
const LIMIT: u64 = 1 << 20;

/// Reads the tokens of an open file, one a line; at least one. Empty lines do not count.
///
/// # Errors
/// A sentence for the path to stand before: others can use the file, or it holds something else.
pub fn read(file: File) -> Result<Vec<String>, String> {
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    let mode = metadata.mode() & 0o7777;
    // The mode of a pipe, such as <(pass show bridge), says nothing.
    if metadata.is_file() && mode & 0o077 != 0 {
        return Err(format!(
            "accessible to others (mode {mode:04o}); chmod 600 it"
        ));
    }
    let mut text = String::new();
    let read = file.take(LIMIT + 1).read_to_string(&mut text);
    if read.map_err(|error| error.to_string())? as u64 > LIMIT {
        return Err(format!("is larger than {LIMIT} bytes"));
    }
    let mut tokens = Vec::new();
    for (line, token) in text.lines().enumerate() {
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "line {}: a token may contain only visible ASCII characters",
                line + 1
            ));
        }
        if !token.is_empty() {
            tokens.push(token.to_string());
        }
    }
    match tokens.is_empty() {
        true => Err("has no tokens; write one per line".to_string()),
        false => Ok(tokens),
    }
}
