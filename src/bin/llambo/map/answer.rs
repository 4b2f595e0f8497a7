//! An answer on its way out.

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
    /// True if the answer ended at the default number of tokens.
    pub cut: bool,
}

impl Answer {
    /// The answer to a line that no bridge answers.
    pub fn client_error(message: String) -> Answer {
        Answer {
            error: Some((message, failure::REFUSED)),
            ..Answer::default()
        }
    }

    /// The answer as it is printed: on one line, or as it is where NUL ends it.
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
