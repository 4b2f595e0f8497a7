//! JSON: what is taken is JSON by the letter of RFC 8259 and by miniserde, means the same to both,
//! and is the same again when it is written; what is not taken is refused at the byte that is wrong.

use llama_cpp_bridge::protocol::json::{DEPTH_LIMIT, Kind, Value, parse};
use miniserde::json::{self, Number};

/// The input is the text.
pub(crate) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let depth = depth_of(text);
    match parse(text) {
        Ok(value) => {
            assert!(depth.is_some_and(|depth| depth <= DEPTH_LIMIT), "not JSON");
            taken(text, &value);
        }
        Err(reason) => {
            assert!(depth.is_none_or(|depth| depth > DEPTH_LIMIT), "{reason}");
            refused(text, &reason);
        }
    }
}

fn taken(text: &str, value: &Value<'_>) {
    let other = json::from_str(text);
    // One reads 1e999 as infinity, which no limit allows; the other does not read it.
    if all_finite(value) {
        let other = other.expect("miniserde reads it");
        assert!(alike(value, &other), "{value:?} is {other:?} to miniserde");
        let written = json::to_string(&other);
        let again = parse(&written).expect("what miniserde writes is JSON");
        assert!(alike(&again, &other), "written as {written}");
    }
    let written = write(value);
    let again = parse(&written).expect("what was read can be read again");
    assert_eq!(write(&again), written);
    for part in &value.items {
        assert_eq!(parse(part.source).as_ref(), Ok(part), "a part of {text}");
    }
}

/// A sentence that names a byte, up to which the text could have been JSON.
fn refused(text: &str, reason: &str) {
    let rest = reason.strip_prefix("Not valid JSON at byte ");
    let (at, rest) = rest
        .and_then(|rest| rest.split_once(": expected "))
        .expect("a sentence");
    let at: usize = at.parse().expect("an offset");
    let (before, after) = (text.get(..at), text.get(at..));
    let (before, after) = before.zip(after).expect("a place in the text");
    let found = match after.chars().next() {
        Some(found) => format!(", found '{}'", found.escape_debug()),
        None => ", found the end".to_string(),
    };
    assert!(rest.ends_with(&found), "{reason}");
    // What comes before the byte is not at fault.
    match parse(before) {
        Ok(_) => assert!(rest.starts_with("nothing after the value"), "{reason}"),
        Err(earlier) => {
            let at_end = earlier.starts_with(&format!("Not valid JSON at byte {at}: "));
            assert!(at_end, "{reason}; but before it {earlier}");
        }
    }
}

/// Whether two readings of a text mean the same. Of two fields of one name, one keeps the last.
fn alike(ours: &Value<'_>, other: &json::Value) -> bool {
    match (&ours.kind, other) {
        (Kind::Null, json::Value::Null) => true,
        (Kind::Bool(a), json::Value::Bool(b)) => a == b,
        (Kind::String(a), json::Value::String(b)) => a == b,
        (Kind::Number(a), json::Value::Number(b)) => close(*a, b),
        (Kind::Array, json::Value::Array(items)) => {
            let mut pairs = ours.items.iter().zip(items);
            ours.items.len() == items.len() && pairs.all(|(a, b)| alike(a, b))
        }
        (Kind::Object(keys), json::Value::Object(fields)) => {
            let last = |name: &String| ours.fields().filter(|(key, _)| key == name).last();
            let mut names = fields.iter();
            keys.iter().all(|key| fields.contains_key(key))
                && names.all(|(name, value)| last(name).is_some_and(|(_, own)| alike(own, value)))
        }
        _ => false,
    }
}

/// miniserde may be off by the last bit.
fn close(ours: f64, other: &Number) -> bool {
    let other = match other {
        Number::U64(number) => *number as f64,
        Number::I64(number) => *number as f64,
        Number::F64(number) => *number,
    };
    (ours - other).abs() <= f64::MIN_POSITIVE.max(4.0 * f64::EPSILON * ours.abs())
}

fn all_finite(value: &Value<'_>) -> bool {
    let finite = !matches!(value.kind, Kind::Number(number) if number.is_infinite());
    finite && value.items.iter().all(all_finite)
}

/// A value as JSON without blanks.
fn write(value: &Value<'_>) -> String {
    match &value.kind {
        Kind::String(text) => json::to_string(text),
        Kind::Array => {
            let items: Vec<String> = value.items.iter().map(write).collect();
            format!("[{}]", items.join(","))
        }
        Kind::Object(_) => {
            let field = |(name, value): (&str, &Value<'_>)| {
                format!("{}:{}", json::to_string(&name.to_string()), write(value))
            };
            let fields: Vec<String> = value.fields().map(field).collect();
            format!("{{{}}}", fields.join(","))
        }
        Kind::Number(number) => {
            assert_eq!(value.source.parse().ok(), Some(*number));
            value.source.to_string()
        }
        Kind::Null | Kind::Bool(_) => value.source.to_string(),
    }
}

/// How deep the values of a text are nested, if it is JSON by RFC 8259 and each `\u` stands for a
/// character.
fn depth_of(text: &str) -> Option<usize> {
    let (depth, rest) = value(blanks(text))?;
    blanks(rest).is_empty().then_some(depth)
}

fn blanks(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\n', '\r'])
}

/// The depth of the value that a text begins with, and the rest of the text.
fn value(text: &str) -> Option<(usize, &str)> {
    for word in ["null", "true", "false"] {
        if let Some(rest) = text.strip_prefix(word) {
            return Some((0, rest));
        }
    }
    match text.chars().next()? {
        '"' => Some((0, string(&text[1..])?)),
        '[' => list(&text[1..], ']', false),
        '{' => list(&text[1..], '}', true),
        _ => Some((0, number(text)?)),
    }
}

fn list(text: &str, end: char, keys: bool) -> Option<(usize, &str)> {
    let mut rest = blanks(text);
    if let Some(rest) = rest.strip_prefix(end) {
        return Some((0, rest));
    }
    let mut deepest = 0;
    loop {
        if keys {
            let key = string(rest.strip_prefix('"')?)?;
            rest = blanks(blanks(key).strip_prefix(':')?);
        }
        let (depth, after) = value(rest)?;
        deepest = deepest.max(depth + 1);
        rest = blanks(after);
        if let Some(rest) = rest.strip_prefix(end) {
            return Some((deepest, rest));
        }
        rest = blanks(rest.strip_prefix(',')?);
    }
}

fn number(text: &str) -> Option<&str> {
    let digits = |text: &str| {
        let count = text.bytes().take_while(u8::is_ascii_digit).count();
        (count > 0).then_some(count)
    };
    let mut rest = text.strip_prefix('-').unwrap_or(text);
    let whole = digits(rest)?;
    rest = &rest[if rest.starts_with('0') { 1 } else { whole }..];
    if let Some(fraction) = rest.strip_prefix('.') {
        rest = &fraction[digits(fraction)?..];
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        rest = &exponent[digits(exponent)?..];
    }
    Some(rest)
}

/// What follows a string, after its first quote.
fn string(mut rest: &str) -> Option<&str> {
    loop {
        let mut characters = rest.chars();
        let first = characters.next()?;
        rest = characters.as_str();
        match first {
            '"' => return Some(rest),
            '\0'..' ' => return None,
            '\\' => rest = escape(rest)?,
            _ => (),
        }
    }
}

fn escape(text: &str) -> Option<&str> {
    let Some(text) = text.strip_prefix('u') else {
        return text.strip_prefix(['"', '\\', '/', 'b', 'f', 'n', 'r', 't']);
    };
    let (first, rest) = unit(text)?;
    match first {
        0xd800..0xdc00 => {
            let (second, rest) = unit(rest.strip_prefix("\\u")?)?;
            (0xdc00..0xe000).contains(&second).then_some(rest)
        }
        0xdc00..0xe000 => None,
        _ => Some(rest),
    }
}

fn unit(text: &str) -> Option<(u32, &str)> {
    let digits = text.get(..4)?;
    let all = digits.chars().all(|digit| digit.is_ascii_hexdigit());
    let unit = u32::from_str_radix(digits, 16).ok().filter(|_| all)?;
    Some((unit, &text[4..]))
}
