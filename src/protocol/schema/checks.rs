//! What the keywords of a schema take: looked at, and refused in words that name the place.

use super::{ANNOTATIONS, AT_THE_TOP, Place};
use crate::protocol::json::{Kind, Value};

/// Refuses all keywords but these and those that are allowed anywhere; `case` names the case.
pub(super) fn expect_only(
    schema: &Value<'_>,
    place: Place<'_>,
    case: &str,
    allowed: &[&str],
) -> Result<(), String> {
    for (name, _) in schema.fields() {
        let top = place.above.is_none() && AT_THE_TOP.contains(&name);
        if top || ANNOTATIONS.contains(&name) || allowed.contains(&name) {
            continue;
        }
        if AT_THE_TOP.contains(&name) {
            return Err(format!(
                "'{name}' at {place} is not supported; it is allowed only at the top level of a schema"
            ));
        }
        let others: Vec<&str> = allowed
            .iter()
            .copied()
            .filter(|a| !case.contains(a))
            .collect();
        let others = match &others[..] {
            [] => "only descriptions are allowed".to_string(),
            [one] => format!("only {one} is allowed"),
            others => format!("only {} are allowed", others.join(", ")),
        };
        return Err(format!(
            "'{name}' at {place} is not supported; {case} {others}"
        ));
    }
    Ok(())
}

/// Looks whether a value is an object.
pub(super) fn expect_object(value: &Value<'_>, place: Place<'_>) -> Result<(), String> {
    match value.kind {
        Kind::Object(_) => Ok(()),
        _ => Err(wrong(value, place, "an object")),
    }
}

/// The values of an array that has some.
pub(super) fn filled_array<'a, 'b>(
    value: &'a Value<'b>,
    place: Place<'_>,
) -> Result<&'a [Value<'b>], String> {
    match value.kind {
        Kind::Array if !value.items.is_empty() => Ok(&value.items),
        Kind::Array => Err(format!("{place} is empty; it takes at least one value")),
        _ => Err(wrong(value, place, "an array")),
    }
}

/// A sentence on a value of the wrong kind.
pub(super) fn wrong(value: &Value<'_>, place: Place<'_>, takes: &str) -> String {
    let found = match &value.kind {
        Kind::Number(_) | Kind::Bool(_) => value.source.to_string(),
        Kind::String(text) => format!("'{text}'"),
        kind => kind.name().to_string(),
    };
    format!("{place} takes {takes}, not {found}")
}

/// The value of a keyword, if it is there.
pub(super) fn field<'a, 'b>(schema: &'a Value<'b>, name: &str) -> Option<&'a Value<'b>> {
    let mut fields = schema.fields();
    fields.find(|(key, _)| *key == name).map(|(_, value)| value)
}
