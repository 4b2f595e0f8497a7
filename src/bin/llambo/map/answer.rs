//! The answer to a line, and how it is printed.

use crate::cli::Options;
use crate::failure;
use crate::output;

/// The answer to a line.
#[derive(Default)]
pub struct Answer {
    /// What is printed.
    pub text: String,
    /// The message and the exit status, where the answer is an error.
    pub error: Option<(String, u8)>,
    /// Whether it was cut off at the default number of tokens.
    pub cut: bool,
}

impl Answer {
    /// The answer to a line that is not sent to any bridge.
    pub fn client_error(message: String) -> Answer {
        Answer {
            error: Some((message, failure::FAILED)),
            ..Answer::default()
        }
    }

    /// The answer as it is printed: on one line, or unchanged before a NUL.
    pub fn shown(self, options: &Options) -> String {
        let mut text = match (&self.error, options.json) {
            (Some((message, _)), true) if self.text.is_empty() => format!(
                "{{\"status\":\"error\",\"message\":{},\"code\":\"bad_request\"}}",
                output::json_string(message)
            ),
            (Some((message, _)), false) => format!("error: {message}"),
            _ => self.text,
        };
        if options.null {
            text.push('\0');
        } else {
            text = if options.wants_json_text() {
                text.replace(['\r', '\n'], " ")
            } else {
                text.replace('\r', "\\r").replace('\n', "\\n")
            };
            text.push('\n');
        }
        text
    }
}
