//! In place of [`crate::sandbox::landlock`] where there is none: systems other than Linux.

use llama_cpp_bridge::shared::settings::ModelParams;

/// Shuts nothing in.
///
/// # Errors
/// Always: that there is no sandbox here.
pub(crate) fn enter(_: &ModelParams) -> Result<(), String> {
    Err("only Linux has one".to_string())
}
