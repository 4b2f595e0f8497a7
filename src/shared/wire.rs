//! How messages are written: a line each, of what it is, the number of its request or 0, and its
//! content in JSON.

use miniserde::{Deserialize, Serialize, json};

use crate::shared::message::{Answer, Embedding, FromModel, Part, ToModel, Work};

/// How deep an answer is nested: the numbers of an embedding are an array in an object.
const MAX_DEPTH: usize = 2;

/// What can be sent over the socket pair.
pub trait Message: Sized {
    /// The message as a line, without its LF.
    fn write(&self) -> String;

    /// The message that such a line holds; `None` if it is not one.
    fn read(line: &str) -> Option<Self>;
}

fn line(kind: &str, id: u64, content: &impl Serialize) -> String {
    format!("{kind} {id} {}", json::to_string(content))
}

/// The kind of a line, the number of its request, and its content.
fn split(line: &str) -> Option<(&str, u64, &str)> {
    let (kind, rest) = line.split_once(' ')?;
    let (id, content) = rest.split_once(' ')?;
    Some((kind, id.parse().ok()?, content))
}

fn value<T: Deserialize>(content: &str) -> Option<T> {
    json::from_str(content).ok()
}

/// The numbers of an embedding, which have the digits of an f32, as they were written. miniserde
/// divides by a power of ten, and what is divided by one of more than 22 digits can be off by a bit
/// (findings/miniserde-small-numbers.sh).
fn exact(mut values: Vec<f64>) -> Vec<f64> {
    /// 9 digits, the most that an f32 needs, divided by the largest power that is exact.
    const SURE: f64 = 1e-13;
    for value in &mut values {
        if value.abs() < SURE {
            let short = *value as f32;
            *value = short.to_string().parse().unwrap_or(*value);
        }
    }
    values
}

/// Whether arrays and objects in some JSON are nested no deeper than in any answer. The parser keeps
/// 40 bytes for each level, even of a field that it does not know.
fn is_flat(content: &str) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in content.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            _ if in_text => (),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => (),
        }
        if depth > MAX_DEPTH {
            return false;
        }
    }
    true
}

impl Message for ToModel {
    fn write(&self) -> String {
        match self {
            // Another name than the model's: a program that sends back what it gets is none.
            Self::Hello(build) => line("bridge", 0, build),
            Self::Load(params) => line("load", 0, &**params),
            Self::Cancel(id) => line("cancel", *id, &()),
            Self::Work(id, Work::Generate(request)) => line("generate", *id, &**request),
            Self::Work(id, Work::Embed(text)) => line("embed", *id, text),
            Self::Work(id, Work::Tokenize(text)) => line("tokenize", *id, text),
            Self::Work(id, Work::Detokenize(tokens)) => line("detokenize", *id, tokens),
            Self::Work(id, Work::Save(name)) => line("save", *id, name),
            Self::Work(id, Work::Restore(name)) => line("restore", *id, name),
        }
    }

    fn read(line: &str) -> Option<Self> {
        let (kind, id, content) = split(line)?;
        let work = match kind {
            "bridge" => return value(content).map(Self::Hello),
            "load" => return value(content).map(|params| Self::Load(Box::new(params))),
            "cancel" => return Some(Self::Cancel(id)),
            "generate" => Work::Generate(Box::new(value(content)?)),
            "embed" => Work::Embed(value(content)?),
            "tokenize" => Work::Tokenize(value(content)?),
            "detokenize" => Work::Detokenize(value(content)?),
            "save" => Work::Save(value(content)?),
            "restore" => Work::Restore(value(content)?),
            _ => return None,
        };
        Some(Self::Work(id, work))
    }
}

impl Message for FromModel {
    fn write(&self) -> String {
        match self {
            Self::Hello(build) => line("hello", 0, build),
            Self::Ready(ready) => line("ready", 0, &**ready),
            Self::Refused(reason) => line("refused", 0, reason),
            Self::Notice(notice) => line("notice", 0, notice),
            Self::Busy(milliseconds) => line("busy", 0, milliseconds),
            Self::Part(id, Part::Text(piece)) => line("piece", *id, piece),
            Self::Part(id, Part::Tokens(tokens)) => line("more_tokens", *id, tokens),
            Self::Part(id, Part::Values(values)) => line("more_values", *id, values),
            Self::Answer(id, Ok(Answer::Generated(done))) => line("done", *id, &**done),
            Self::Answer(id, Ok(Answer::Embedding(embedding))) => line("embedding", *id, embedding),
            Self::Answer(id, Ok(Answer::Tokens(tokens))) => line("tokens", *id, tokens),
            Self::Answer(id, Ok(Answer::Text(text))) => line("text", *id, text),
            Self::Answer(id, Ok(Answer::State(state))) => line("state", *id, state),
            Self::Answer(id, Err(failure)) => line("failed", *id, failure),
        }
    }

    fn read(line: &str) -> Option<Self> {
        let (kind, id, content) = split(line)?;
        if !is_flat(content) {
            return None;
        }
        let answer = match kind {
            "hello" => return value(content).map(Self::Hello),
            "ready" => return value(content).map(|ready| Self::Ready(Box::new(ready))),
            "refused" => return value(content).map(Self::Refused),
            "notice" => return value(content).map(Self::Notice),
            "busy" => return value(content).map(Self::Busy),
            "piece" => return value(content).map(|piece| Self::Part(id, Part::Text(piece))),
            "more_tokens" => return value(content).map(|t| Self::Part(id, Part::Tokens(t))),
            "more_values" => return value(content).map(|v| Self::Part(id, Part::Values(exact(v)))),
            "done" => Ok(Answer::Generated(Box::new(value(content)?))),
            "embedding" => {
                let mut embedding: Embedding = value(content)?;
                embedding.values = exact(embedding.values);
                Ok(Answer::Embedding(embedding))
            }
            "tokens" => Ok(Answer::Tokens(value(content)?)),
            "text" => Ok(Answer::Text(value(content)?)),
            "state" => Ok(Answer::State(value(content)?)),
            "failed" => Err(value(content)?),
            _ => return None,
        };
        Some(Self::Answer(id, answer))
    }
}
