//! The object of GENERATE: which fields there are, and what each takes.

use crate::protocol::json::{self, Kind, Value};
use crate::shared::failure::Failure;
use crate::shared::message::{Generate, Turn};
use crate::shared::ranges::{self, Limit};

use crate::protocol::schema;

/// The roles of a conversation.
const ROLES: [&str; 3] = ["system", "user", "assistant"];

/// Characters of a wrong value that its error reply repeats.
const SHOWN: usize = 64;

/// Sets what a field is about.
type Setter = fn(&mut Generate, &Field<'_>) -> Result<(), Failure>;

/// Every field, in the order of llama-cpp-bridge(7), and how it is set.
const FIELDS: [(&str, Setter); 18] = [
    ("prompt", |r, field| {
        set(&mut r.prompt, field.filled_string().map(Some))
    }),
    ("messages", |r, field| {
        set(&mut r.messages, field.messages().map(Some))
    }),
    ("max_tokens", |r, field| {
        set(&mut r.max_tokens, field.integer(&ranges::MAX_TOKENS))
    }),
    ("temperature", sampling),
    ("top_k", sampling),
    ("top_p", sampling),
    ("min_p", sampling),
    ("repeat_penalty", sampling),
    ("repeat_last_n", sampling),
    ("presence_penalty", sampling),
    ("frequency_penalty", sampling),
    ("seed", |r, field| {
        set(&mut r.seed, field.integer(&ranges::SEED_FIELD))
    }),
    ("stop", |r, field| set(&mut r.stop, field.stop_strings())),
    ("grammar", |r, field| {
        set(&mut r.grammar, field.filled_string().map(Some))
    }),
    ("json_schema", |r, field| {
        set(&mut r.json_schema, field.schema().map(Some))
    }),
    ("stream", |r, field| set(&mut r.stream, field.boolean())),
    ("ignore_eos", |r, field| {
        set(&mut r.ignore_eos, field.boolean())
    }),
    ("cache_prompt", |r, field| {
        set(&mut r.cache_prompt, field.boolean())
    }),
];

fn set<T>(member: &mut T, value: Result<T, Failure>) -> Result<(), Failure> {
    *member = value?;
    Ok(())
}

fn sampling(request: &mut Generate, field: &Field<'_>) -> Result<(), Failure> {
    for (limit, set) in ranges::SAMPLING {
        if limit.field == field.name {
            set(&mut request.sampling, field.number(limit)?);
        }
    }
    Ok(())
}

/// Reads the object. What it does not set is as in `defaults`.
///
/// # Errors
/// `bad_request` that names the field and what it takes.
pub fn parse(text: &str, defaults: Generate) -> Result<Generate, Failure> {
    let object = json::parse(text).map_err(Failure::bad_request)?;
    let Kind::Object(keys) = &object.kind else {
        return Err(Failure::bad_request(format!(
            "GENERATE takes a JSON object, not {}",
            object.kind.name()
        )));
    };
    // All names first: a mistake in one of them is reported before one in a value.
    let mut setters = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        let Some((_, setter)) = FIELDS.iter().find(|(name, _)| name == key) else {
            return Err(unknown_field(key, &FIELDS.map(|(name, _)| name)));
        };
        expect_once(keys, at, key)?;
        setters.push(setter);
    }
    let mut request = defaults;
    for (setter, (name, value)) in setters.into_iter().zip(object.fields()) {
        setter(&mut request, &Field { name, value })?;
    }
    match (&request.prompt, &request.messages) {
        (Some(_), None) | (None, Some(_)) => (),
        (None, None) => return Err(missing("prompt or messages")),
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
    Failure::bad_request(format!("Missing field: {what}"))
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

    fn number(&self, limit: &Limit) -> Result<f64, Failure> {
        match self.value.kind {
            Kind::Number(number) if limit.allows(number) => Ok(number),
            _ => Err(self.wrong(&limit.takes())),
        }
    }

    /// `limit` allows nothing that T cannot hold.
    fn integer<T: TryFrom<i64>>(&self, limit: &Limit) -> Result<T, Failure> {
        let number = self.number(limit)?;
        T::try_from(number as i64).map_err(|_| self.wrong(&limit.takes()))
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

    /// The grammar of a schema.
    fn schema(&self) -> Result<String, Failure> {
        if !matches!(self.value.kind, Kind::Object(_)) {
            return Err(self.wrong("an object"));
        }
        let unusable = |reason| format!("Field '{}' cannot be used: {reason}", self.name);
        schema::grammar(self.value).map_err(|reason| Failure::bad_request(unusable(reason)))
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
                    "Field 'messages' is empty; it takes {takes}"
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
        role: role.ok_or_else(|| missing(&format!("{place}.role")))?,
        content: content.ok_or_else(|| missing(&format!("{place}.content")))?,
    })
}
