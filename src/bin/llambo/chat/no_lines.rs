//! In place of line editing, in builds without the feature `line-editing`.

use super::line::Line;
use crate::failure::Failure;

/// No editor: there is never one.
pub enum Lines {}

impl Lines {
    /// `None`: lines are taken as the terminal gives them.
    pub fn new(_history: bool) -> Option<Lines> {
        None
    }

    /// Never called.
    pub fn read(&mut self, _prompt: &str) -> Result<Line, Failure> {
        match *self {}
    }

    /// Never called.
    pub fn remember(&mut self, _text: &str) {
        match *self {}
    }
}
