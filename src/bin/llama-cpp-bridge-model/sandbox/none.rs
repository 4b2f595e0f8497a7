//! In place of the sandbox, on systems other than Linux.

use llama_cpp_bridge::shared::settings::ModelParams;

/// Does nothing.
///
/// # Errors
/// Always: there is no sandbox here.
pub fn enter(_: &ModelParams) -> Result<(), String> {
    Err("it needs Linux".to_string())
}
