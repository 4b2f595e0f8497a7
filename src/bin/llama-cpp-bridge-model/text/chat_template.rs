//! Conversations: rendering the model's chat template, which is Jinja.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, context, filters};

use llama_cpp_bridge::chat::segments::{Segment, Segmenter};
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::Turn;
use llama_cpp_bridge::sys;

/// Steps that a template may take: it comes from the model file, and could loop forever.
const FUEL: u64 = 10_000_000;

/// A chat template.
pub struct Template {
    source: String,
    bos: String,
    eos: String,
    segmenter: Segmenter,
}

impl Template {
    /// A template, with the texts of the model's special tokens. Whether it is valid is not checked
    /// yet.
    pub fn new(source: String, bos: String, eos: String, special: Vec<String>) -> Self {
        Self {
            segmenter: Segmenter::new(&source, special),
            source,
            bos,
            eos,
        }
    }

    /// The prompt of a conversation, up to where the model's next turn starts.
    ///
    /// # Errors
    /// A template that cannot be used, or that refuses the conversation, or that changes a message
    /// so that the special tokens in it cannot be distinguished from the template's own.
    pub fn render(&self, turns: &[Turn]) -> Result<Vec<Segment>, Failure> {
        let contents: Vec<&str> = turns.iter().map(|turn| turn.content.as_str()).collect();
        self.segmenter
            .segments(&contents, |contents| self.fill(turns, contents))
    }

    /// Renders a conversation with these contents in place of its own.
    fn fill(&self, turns: &[Turn], contents: &[String]) -> Result<String, Failure> {
        let messages: Vec<Value> = turns
            .iter()
            .zip(contents)
            .map(|(turn, content)| {
                Value::from_pairs([("role", turn.role.as_str()), ("content", content)])
            })
            .collect();
        environment()
            .render_str(
                &self.source,
                context! {
                    messages => messages,
                    add_generation_prompt => true,
                    bos_token => &self.bos,
                    eos_token => &self.eos,
                    tools => (),
                    documents => (),
                },
            )
            .map_err(|error| failure(&error))
    }
}

/// Jinja as the templates expect it: that of the Python library transformers.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    environment.set_syntax(syntax.unwrap_or_default());
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", plain_json);
    environment.add_function("raise_exception", |message: String| -> Result<(), Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "refused").with_source(Refusal(message)))
    });
    environment.add_function("strftime_now", |format: String| {
        sys::time::local_time(&format)
    });
    environment
}

/// minijinja's filter writes JSON for HTML; the templates are not made for that.
fn plain_json(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<String, Error> {
    let json = filters::tojson(value, indent, options)?;
    let mut rest = json.as_str().unwrap_or_default();
    let mut plain = String::new();
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let (character, length) = match rest.get(at..at + 6) {
            Some("\\u003c") => ("<", 6),
            Some("\\u003e") => (">", 6),
            Some("\\u0026") => ("&", 6),
            Some("\\u0027") => ("'", 6),
            // Any other escape stays, the escaped character with it.
            _ => (rest.get(at..at + 2).unwrap_or("\\"), 2),
        };
        plain.push_str(character);
        rest = rest.get(at + length..).unwrap_or_default();
    }
    Ok(plain + rest)
}

/// What a template reports by `raise_exception` for a conversation that it was not made for.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// The conversation is at fault if the template says so, else the template is.
fn failure(error: &Error) -> Failure {
    let first: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut chain = std::iter::successors(first, |error| error.source());
    let (code, reason) = match chain.find_map(|error| error.downcast_ref::<Refusal>()) {
        Some(refusal) => (Code::BadRequest, refusal.to_string()),
        None => (Code::Unsupported, error.to_string()),
    };
    Failure::new(code, format!("Chat template: {reason}"))
}
