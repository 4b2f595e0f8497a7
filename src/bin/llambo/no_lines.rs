//! In place of line editing, in builds without the feature `line-editing`.

use crate::editor::Line;
use crate::failure::Failure;

/// No editor: there is never one.
pub(crate) enum Lines {}

impl Lines {
    /// `None`: lines are taken as the terminal gives them.
    pub(crate) fn new(_history: bool) -> Option<Lines> {
        None
    }

    /// Never called.
    pub(crate) fn read(&mut self, _prompt: &str) -> Result<Line, Failure> {
        match *self {}
    }

    /// Never called.
    pub(crate) fn remember(&mut self, _text: &str) {
        match *self {}
    }
}
