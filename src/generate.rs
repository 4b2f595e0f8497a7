//! The object of GENERATE: which fields there are, and what each takes.

use crate::failure::Failure;
use crate::json::{self, Kind, Value};
use crate::limits::MAX_CONTEXT;
use crate::message::{Generate, Turn};

use crate::{grammar, schema};

/// The roles of a conversation.
const ROLES: [&str; 3] = ["system", "user", "assistant"];

/// Characters of a wrong value that its error reply repeats.
const SHOWN: usize = 64;

/// Every field, in the order of llama-cpp-bridge(7).
const FIELDS: [&str; 18] = [
    "prompt",
    "messages",
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repeat_penalty",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "grammar",
    "json_schema",
    "stream",
    "ignore_eos",
    "cache_prompt",
];

/// Reads the object. What it does not set is as in `defaults`.
///
/// # Errors
/// `bad_request` that names the field and says what it takes.
pub(crate) fn parse(text: &str, defaults: Generate) -> Result<Generate, Failure> {
    let object = json::parse(text).map_err(Failure::bad_request)?;
    let Kind::Object(keys) = &object.kind else {
        return Err(Failure::bad_request(format!(
            "GENERATE takes a JSON object, not {}",
            object.kind.name()
        )));
    };
    for (at, key) in keys.iter().enumerate() {
        if !FIELDS.contains(&key.as_str()) {
            return Err(unknown_field(key, &FIELDS));
        }
        expect_once(keys, at, key)?;
    }
    let mut request = defaults;
    for (name, value) in object.fields() {
        set(&mut request, name, value)?;
    }
    match (&request.prompt, &request.messages) {
        (Some(_), None) | (None, Some(_)) => (),
        (None, None) => return Err(missing("one of the fields prompt and messages")),
        (Some(_), Some(_)) => {
            let message = "Only one of the fields prompt and messages can be given";
            return Err(Failure::bad_request(message));
        }
    }
    if request.grammar.is_some() && request.json_schema.is_some() {
        let message = "Only one of the fields grammar and json_schema can be given";
        return Err(Failure::bad_request(message));
    }
    Ok(request)
}

fn unknown_field(key: &str, known: &[&str]) -> Failure {
    Failure::bad_request(format!(
        "Unknown field '{}'; the fields are {}",
        shown(key),
        known.join(", ")
    ))
}

/// What a message repeats of what a client wrote.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_string(),
    }
}

fn expect_once(keys: &[String], at: usize, key: &str) -> Result<(), Failure> {
    if keys[..at].iter().any(|earlier| earlier == key) {
        let message = format!("Field '{key}' is given twice");
        return Err(Failure::bad_request(message));
    }
    Ok(())
}

fn missing(what: &str) -> Failure {
    Failure::bad_request(format!("Missing: {what}"))
}

fn set(request: &mut Generate, name: &str, value: &Value<'_>) -> Result<(), Failure> {
    let field = Field { name, value };
    let sampling = &mut request.sampling;
    match name {
        "prompt" => request.prompt = Some(field.filled_string()?),
        "messages" => request.messages = Some(field.messages()?),
        "max_tokens" => request.max_tokens = field.integer(-1, i64::from(MAX_CONTEXT))? as i32,
        "temperature" => sampling.temperature = field.number(0.0, 1000.0)?,
        "top_k" => sampling.top_k = field.integer(0, i64::from(i32::MAX))? as i32,
        "top_p" => sampling.top_p = field.number(0.0, 1.0)?,
        "min_p" => sampling.min_p = field.number(0.0, 1.0)?,
        "repeat_penalty" => sampling.repeat_penalty = field.number(0.001, 1000.0)?,
        "repeat_last_n" => {
            sampling.repeat_last_n = field.integer(-1, i64::from(MAX_CONTEXT))? as i32;
        }
        "presence_penalty" => sampling.presence_penalty = field.number(-2.0, 2.0)?,
        "frequency_penalty" => sampling.frequency_penalty = field.number(-2.0, 2.0)?,
        "seed" => {
            request.seed = field.integer(0, i64::from(u32::MAX))? as u32;
        }
        "stop" => request.stop = field.stop_strings()?,
        "grammar" => {
            let text = field.filled_string()?;
            grammar::check(&text).map_err(|reason| field.unusable(&reason))?;
            request.grammar = Some(text);
        }
        "json_schema" => {
            let text = field.object_text()?;
            schema::check(value).map_err(|reason| field.unusable(&reason))?;
            request.json_schema = Some(text);
        }
        "stream" => request.stream = field.boolean()?,
        "ignore_eos" => request.ignore_eos = field.boolean()?,
        _ => request.cache_prompt = field.boolean()?,
    }
    Ok(())
}

/// A field at hand.
struct Field<'a> {
    name: &'a str,
    value: &'a Value<'a>,
}

impl Field<'_> {
    fn wrong(&self, takes: &str) -> Failure {
        let found = match &self.value.kind {
            Kind::Number(_) => shown(self.value.source),
            kind => kind.name().to_string(),
        };
        Failure::bad_request(format!("Field '{}' takes {takes}, not {found}", self.name))
    }

    fn unusable(&self, reason: &str) -> Failure {
        Failure::bad_request(format!("Field '{}' cannot be used: {reason}", self.name))
    }

    fn number(&self, low: f32, high: f32) -> Result<f32, Failure> {
        match self.value.kind {
            Kind::Number(n) if n >= f64::from(low) && n <= f64::from(high) => Ok(n as f32),
            // 0.001 as an f32 is a little more than 0.001.
            Kind::Number(n) if n as f32 == low || n as f32 == high => Ok(n as f32),
            _ => Err(self.wrong(&format!("a number from {low} to {high}"))),
        }
    }

    fn integer(&self, low: i64, high: i64) -> Result<i64, Failure> {
        match self.value.kind {
            Kind::Number(n) if n.fract() == 0.0 && n >= low as f64 && n <= high as f64 => {
                Ok(n as i64)
            }
            _ => Err(self.wrong(&format!("a whole number from {low} to {high}"))),
        }
    }

    fn boolean(&self) -> Result<bool, Failure> {
        match self.value.kind {
            Kind::Bool(b) => Ok(b),
            _ => Err(self.wrong("true or false")),
        }
    }

    fn filled_string(&self) -> Result<String, Failure> {
        match &self.value.kind {
            Kind::String(text) if !text.is_empty() => Ok(text.clone()),
            Kind::String(_) => Err(Failure::bad_request(format!(
                "Field '{}' is empty; it takes a string of at least one character",
                self.name
            ))),
            _ => Err(self.wrong("a string")),
        }
    }

    fn object_text(&self) -> Result<String, Failure> {
        match self.value.kind {
            Kind::Object(_) => Ok(self.value.source.to_string()),
            _ => Err(self.wrong("an object")),
        }
    }

    fn stop_strings(&self) -> Result<Vec<String>, Failure> {
        match &self.value.kind {
            Kind::String(_) => Ok(vec![self.filled_string()?]),
            Kind::Array => self
                .value
                .items
                .iter()
                .enumerate()
                .map(|(at, value)| {
                    let name = format!("{}[{at}]", self.name);
                    Field { name: &name, value }.filled_string()
                })
                .collect(),
            _ => Err(self.wrong("a string or an array of strings")),
        }
    }

    fn messages(&self) -> Result<Vec<Turn>, Failure> {
        let takes = "an array of objects with the fields role and content, at least one";
        match self.value.kind {
            Kind::Array if !self.value.items.is_empty() => (),
            Kind::Array => {
                return Err(Failure::bad_request(format!(
                    "Field 'messages' takes {takes}"
                )));
            }
            _ => return Err(self.wrong(takes)),
        }
        let turns = self.value.items.iter().enumerate();
        turns.map(|(at, value)| turn(at, value)).collect()
    }
}

fn turn(at: usize, value: &Value<'_>) -> Result<Turn, Failure> {
    let place = format!("messages[{at}]");
    let Kind::Object(keys) = &value.kind else {
        let takes = Field {
            name: &place,
            value,
        };
        return Err(takes.wrong("an object with the fields role and content"));
    };
    let mut role = None;
    let mut content = None;
    for (position, (name, value)) in value.fields().enumerate() {
        expect_once(keys, position, name)?;
        let full = format!("{place}.{name}");
        let field = Field { name: &full, value };
        match (name, &value.kind) {
            ("role", Kind::String(text)) if ROLES.contains(&text.as_str()) => {
                role = Some(text.clone());
            }
            ("role", Kind::String(text)) => {
                return Err(Failure::bad_request(format!(
                    "Field '{full}' takes one of {}, not '{}'",
                    ROLES.join(", "),
                    shown(text)
                )));
            }
            ("content", Kind::String(text)) => content = Some(text.clone()),
            ("role" | "content", _) => return Err(field.wrong("a string")),
            _ => return Err(unknown_field(&full, &["role", "content"])),
        }
    }
    Ok(Turn {
        role: role.ok_or_else(|| missing(&format!("field role of {place}")))?,
        content: content.ok_or_else(|| missing(&format!("field content of {place}")))?,
    })
}
