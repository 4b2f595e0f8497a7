//! Conversations: rendering the model's chat template, which is Jinja, and telling what in the result
//! a user wrote.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, context, filters};

use crate::text::placeholder::Placeholder;
use crate::text::special_tokens::TextSet;
use crate::text::tokenizer::Segment;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::Turn;
use llama_cpp_bridge::sys;

/// Steps that a template may take: it comes from the model file, and could loop forever.
const FUEL: u64 = 10_000_000;

/// Unicode's noncharacters, which no text needs: two that are not in the conversation mark what must
/// not become special tokens.
const MARKS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// A chat template.
pub struct Template {
    source: String,
    bos: String,
    eos: String,
    /// Texts of special tokens.
    special: TextSet,
    placeholder: Placeholder,
}

impl Template {
    /// A template, with the texts of the model's special tokens. Whether it is valid is not checked
    /// yet.
    pub fn new(source: String, bos: String, eos: String, special: Vec<String>) -> Self {
        Self {
            placeholder: Placeholder::new(&source, &special),
            source,
            bos,
            eos,
            special: TextSet::new(special),
        }
    }

    /// The prompt of a conversation, up to where the model's next turn starts.
    ///
    /// # Errors
    /// A template that cannot be used, or that refuses the conversation, or that changes a message
    /// so that the special tokens in it cannot be distinguished from the template's own.
    pub fn render(&self, turns: &[Turn]) -> Result<Vec<Segment>, Failure> {
        let mut marks = MARKS.filter(|mark| !turns.iter().any(|t| t.content.contains(*mark)));
        let (Some(open), Some(close)) = (marks.next(), marks.next()) else {
            let message = "The messages contain all, or all but one, of the characters U+FDD0 to \
                U+FDEF; the bridge needs two that they do not contain";
            return Err(Failure::bad_request(message));
        };
        let marked: Vec<String> = turns
            .iter()
            .map(|turn| self.mark(&turn.content, open, close))
            .collect();
        let segments = split(&self.fill(turns, &marked)?, open, close);
        let placeholders: Vec<String> = marked
            .iter()
            .map(|content| self.placeholder.of(content))
            .collect();
        // The template may have truncated, changed or joined what was between the marks, or beside
        // them.
        let own = self.fill(turns, &placeholders).map_err(|failure| {
            Failure::bad_request(format!(
                "{}; it fails so with placeholders for the messages, so that its own special tokens \
                 cannot be distinguished from what was written in them",
                failure.message
            ))
        })?;
        let own = split(&own, open, close);
        let (own, found) = (self.special_texts(&own), self.special_texts(&segments));
        if own == found {
            return Ok(segments);
        }
        let differ = own.iter().zip(&found).position(|(own, found)| own != found);
        let differ = differ.unwrap_or(own.len().min(found.len()));
        let what = found.get(differ).or(own.get(differ)).unwrap_or(&"");
        Err(Failure::bad_request(format!(
            "Chat template: it changes the messages, so that it is unclear whether a '{what}' in the \
             prompt is its own or was written in a message"
        )))
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

    /// Puts marks around whatever in a user's text would become a special token. All other text stays
    /// as it is, so that the template sees what it was written for.
    fn mark(&self, text: &str, open: char, close: char) -> String {
        let mut marked = String::with_capacity(text.len());
        let mut done = 0;
        while let Some(found) = self.special.find(text, done) {
            let adjoins = found.start == done && marked.ends_with(close);
            if adjoins {
                marked.pop();
            } else {
                marked.push_str(&text[done..found.start]);
                marked.push(open);
            }
            marked.push_str(&text[found.clone()]);
            marked.push(close);
            done = found.end;
        }
        marked.push_str(&text[done..]);
        marked
    }

    /// The special tokens that segments will become, in their order.
    fn special_texts<'s>(&self, segments: &'s [Segment]) -> Vec<&'s str> {
        let mut texts = Vec::new();
        for segment in segments.iter().filter(|segment| segment.special) {
            let mut from = 0;
            while let Some(found) = self.special.find(&segment.text, from) {
                from = found.end;
                texts.push(&segment.text[found]);
            }
        }
        texts
    }
}

/// Splits a rendered conversation at the marks. Where the template dropped the one that closes, all
/// is plain up to the next one that opens.
fn split(rendered: &str, open: char, close: char) -> Vec<Segment> {
    let mut segments = Vec::new();
    for (index, part) in rendered.split(open).enumerate() {
        let (plain, rest) = match part.split_once(close) {
            _ if index == 0 => ("", part),
            Some(parts) => parts,
            None => (part, ""),
        };
        for (text, special) in [(plain, false), (rest, true)] {
            if !text.is_empty() {
                // No mark is for the model, not even one whose counterpart the template dropped.
                let text = text.replace(close, "");
                segments.push(Segment { text, special });
            }
        }
    }
    segments
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
