//! In place of the sandbox, on systems other than Linux.

use llama_cpp_bridge::shared::settings::ModelParams;

/// Does nothing.
///
/// # Errors
/// None.
pub fn enter(_: &ModelParams, _: bool) -> Result<(), String> {
    Ok(())
}

/// Does nothing.
///
/// # Errors
/// None.
pub fn settle(_: bool) -> Result<(), String> {
    Ok(())
}
