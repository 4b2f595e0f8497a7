//! A reply of the bridge: one JSON object on one line, its keys kept in their order.

use miniserde::de::{Deserialize, Map, Visitor};
use miniserde::json::{self, Number, Value};
use miniserde::make_place;

use crate::failure::Failure;

make_place!(Place);

/// The kinds of reply.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Status {
    /// The request is done.
    Ok,
    /// The request failed.
    Error,
    /// A piece of a stream; more follows.
    Partial,
}

/// A reply.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The line as it came, without its newline.
    pub line: String,
    /// What kind of reply it is.
    pub status: Status,
    /// The `message`.
    pub message: String,
    /// All other keys, in their order.
    pub fields: Vec<(String, Value)>,
}

impl Reply {
    /// Reads a line; the error says what is wrong with it.
    pub(crate) fn parse(line: String) -> Result<Reply, String> {
        let shown = || {
            let start: String = line.chars().take(60).collect();
            format!("'{start}'")
        };
        let Ok(Members(members)) = json::from_str::<Members>(&line) else {
            return Err(format!("{} is no JSON object", shown()));
        };
        let mut status = None;
        let mut message = String::new();
        let mut fields = Vec::new();
        for (key, value) in members {
            match (key.as_str(), value) {
                ("status", Value::String(word)) => {
                    status = match word.as_str() {
                        "ok" => Some(Status::Ok),
                        "error" => Some(Status::Error),
                        "partial" => Some(Status::Partial),
                        _ => None,
                    };
                }
                ("message", Value::String(text)) => message = text,
                (_, value) => fields.push((key, value)),
            }
        }
        let Some(status) = status else {
            return Err(format!("{} has no status that is known", shown()));
        };
        Ok(Reply {
            line,
            status,
            message,
            fields,
        })
    }

    /// The value of a key.
    pub(crate) fn field(&self, name: &str) -> Option<&Value> {
        let found = self.fields.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value)
    }

    /// The value of a key that is text; empty if there is none.
    pub(crate) fn text(&self, name: &str) -> &str {
        match self.field(name) {
            Some(Value::String(text)) => text,
            _ => "",
        }
    }

    /// The value of a key that is a count; 0 if there is none.
    pub(crate) fn count(&self, name: &str) -> u64 {
        match self.field(name) {
            Some(Value::Number(Number::U64(count))) => *count,
            _ => 0,
        }
    }

    /// True if the answer ended for want of room, and not by itself.
    pub(crate) fn is_cut(&self) -> bool {
        matches!(self.text("finish_reason"), "length" | "context")
    }

    /// The numbers of an array, separated by blanks.
    pub(crate) fn numbers(&self, name: &str) -> String {
        let Some(Value::Array(array)) = self.field(name) else {
            return String::new();
        };
        let words: Vec<String> = array.iter().map(json::to_string).collect();
        words.join(" ")
    }

    /// The outcome of a reply that was printed as it is: an error leaves only its exit status.
    pub(crate) fn told(self) -> Result<Reply, Failure> {
        self.into_result()
            .map_err(|failure| Failure::Told(failure.status()))
    }

    /// An error reply as a failure, any other as it is.
    pub(crate) fn into_result(self) -> Result<Reply, Failure> {
        if self.status == Status::Error {
            let code = self.text("code").to_string();
            return Err(Failure::Bridge {
                message: self.message,
                code,
            });
        }
        Ok(self)
    }
}

/// The members of an object in their order, which [`json::Object`] does not keep.
struct Members(Vec<(String, Value)>);

impl Deserialize for Members {
    fn begin(out: &mut Option<Self>) -> &mut dyn Visitor {
        Place::new(out)
    }
}

impl Visitor for Place<Members> {
    fn map(&mut self) -> miniserde::Result<Box<dyn Map + '_>> {
        Ok(Box::new(MembersBuilder {
            out: &mut self.out,
            members: Vec::new(),
            key: String::new(),
            value: None,
        }))
    }
}

struct MembersBuilder<'a> {
    out: &'a mut Option<Members>,
    members: Vec<(String, Value)>,
    key: String,
    value: Option<Value>,
}

impl MembersBuilder<'_> {
    /// Stores the member that was read last, if one was.
    fn store(&mut self) {
        if let Some(value) = self.value.take() {
            self.members.push((std::mem::take(&mut self.key), value));
        }
    }
}

impl Map for MembersBuilder<'_> {
    fn key(&mut self, name: &str) -> miniserde::Result<&mut dyn Visitor> {
        self.store();
        self.key = name.to_string();
        Ok(Deserialize::begin(&mut self.value))
    }

    fn finish(&mut self) -> miniserde::Result<()> {
        self.store();
        *self.out = Some(Members(std::mem::take(&mut self.members)));
        Ok(())
    }
}
