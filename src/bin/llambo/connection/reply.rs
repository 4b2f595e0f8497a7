//! A reply of the bridge: one JSON object on one line.

use llama_cpp_bridge::protocol::json::{self, Kind};

use crate::failure::Failure;
use crate::output;

/// The kinds of reply.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Status {
    /// The request is done.
    Ok,
    /// The request failed.
    Error,
    /// A piece of a stream; more follows.
    Partial,
}

/// A reply.
#[derive(Debug)]
pub struct Reply {
    /// The line as it came, without its newline.
    pub line: String,
    /// What kind of reply it is.
    pub status: Status,
    /// The `message`.
    pub message: String,
    /// All other fields, in their order.
    pub fields: Vec<(String, Field)>,
}

/// The value of a field.
#[derive(Debug)]
pub enum Field {
    /// A string, its escapes undone.
    Text(String),
    /// Anything else, as the bridge wrote it.
    Json(String),
}

impl Reply {
    /// Reads a line; the error says what is wrong with it.
    pub fn parse(line: String) -> Result<Reply, String> {
        let start: String = line.chars().take(60).collect();
        let object = json::parse(&line).ok();
        let Some(object) = object.filter(|value| matches!(value.kind, Kind::Object(_))) else {
            return Err(format!("'{start}' is not a JSON object"));
        };
        let mut status = None;
        let mut message = String::new();
        let mut fields = Vec::new();
        for (key, value) in object.fields() {
            match (key, &value.kind) {
                ("status", Kind::String(word)) => {
                    status = match word.as_str() {
                        "ok" => Some(Status::Ok),
                        "error" => Some(Status::Error),
                        "partial" => Some(Status::Partial),
                        _ => None,
                    };
                }
                ("message", Kind::String(text)) => message.clone_from(text),
                (_, Kind::String(text)) => fields.push((key.into(), Field::Text(text.clone()))),
                _ => fields.push((key.into(), Field::Json(value.source.into()))),
            }
        }
        let status = status.ok_or_else(|| format!("'{start}' has no known status"))?;
        Ok(Reply {
            line,
            status,
            message,
            fields,
        })
    }

    /// The value of a field that is not a string, as the bridge wrote it; empty if there is none.
    fn json(&self, name: &str) -> &str {
        match self.field(name) {
            Some(Field::Json(source)) => source,
            _ => "",
        }
    }

    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let found = self.fields.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value)
    }

    /// The value of a field that is text; empty if there is none.
    pub fn text(&self, name: &str) -> &str {
        match self.field(name) {
            Some(Field::Text(text)) => text,
            _ => "",
        }
    }

    /// The value of a field that is a count; 0 if there is none.
    pub fn count(&self, name: &str) -> u64 {
        self.json(name).parse().unwrap_or_default()
    }

    /// The numbers of an array, separated by blanks.
    pub fn numbers(&self, name: &str) -> String {
        let array = self.json(name).trim_matches(['[', ']']);
        let words: Vec<&str> = array.split(',').map(str::trim).collect();
        words.join(" ")
    }

    /// Whether this reply to INFO describes a model, loaded or unloaded while idle.
    pub fn has_model(&self) -> bool {
        match self.json("loaded") {
            // As of a bridge of version 0.1.
            "" => self.field("model").is_some(),
            loaded => loaded == "true",
        }
    }

    /// Whether the answer was cut off by a limit.
    pub fn is_cut(&self) -> bool {
        matches!(self.text("finish_reason"), "length" | "context")
    }

    /// The outcome of a reply that was already printed: of an error, only its exit status is left.
    pub fn reported(self) -> Result<Reply, Failure> {
        self.into_result()
            .map_err(|failure| Failure::Reported(failure.status()))
    }

    /// An error reply as a failure, any other as it is.
    pub fn into_result(self) -> Result<Reply, Failure> {
        if self.status == Status::Error {
            let code = miniserde::json::from_str(&output::json_string(self.text("code"))).ok();
            return Err(Failure::Bridge {
                message: self.message,
                code,
            });
        }
        Ok(self)
    }
}
