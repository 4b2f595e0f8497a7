//! In place of [`super::sandbox`] where there is none: systems other than Linux.

use crate::settings::Load;

/// Shuts nothing in.
///
/// # Errors
/// Always: that there is no sandbox here.
pub(super) fn enter(_: &Load) -> Result<(), String> {
    Err("only Linux has one".to_string())
}
