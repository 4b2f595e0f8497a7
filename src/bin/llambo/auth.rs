//! The token that a bridge may want to see first.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;

use llama_cpp_bridge::shared::token_file;

use crate::failure::Failure;

/// The environment variable that names the file of the token.
pub const FILE_VARIABLE: &str = "LLAMBO_AUTH_FILE";

/// The first token in a file that nobody else can read.
pub fn token(path: &OsStr) -> Result<String, Failure> {
    let path = Path::new(path);
    let file = File::open(path).map_err(|error| error.to_string());
    let tokens = file.and_then(token_file::read);
    let tokens = tokens.map(|mut tokens| tokens.swap_remove(0));
    tokens.map_err(|reason| Failure::Usage(format!("--auth-file: {}: {reason}", path.display())))
}
