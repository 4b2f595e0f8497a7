//! The types that a schema can name, and the keywords that go with each.

use super::Place;
use super::checks::{expect_only, field, filled_array, wrong};
use crate::protocol::json::{Kind, Value};

/// Each type and its keywords.
const TYPES: [(&str, &[&str]); 7] = [
    (
        "object",
        &[
            "properties",
            "required",
            "additionalProperties",
            "propertyNames",
        ],
    ),
    (
        "array",
        &[
            "items",
            "prefixItems",
            "additionalItems",
            "minItems",
            "maxItems",
        ],
    ),
    ("string", &["minLength", "maxLength", "format"]),
    (
        "integer",
        &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
    ),
    ("number", &[]),
    ("boolean", &[]),
    ("null", &[]),
];

/// The names of all types.
fn type_names() -> [&'static str; 7] {
    TYPES.map(|(name, _)| name)
}

/// The types that a schema names, of which there need not be any.
pub(super) fn types<'a>(schema: &'a Value<'_>, place: Place<'_>) -> Result<Vec<&'a str>, String> {
    let Some(named) = field(schema, "type") else {
        return Ok(Vec::new());
    };
    let place = place.at("type");
    let names = match named.kind {
        Kind::Array => filled_array(named, place)?,
        _ => std::slice::from_ref(named),
    };
    let known = type_names().join(", ");
    let mut types: Vec<&str> = Vec::new();
    for name in names {
        match &name.kind {
            Kind::String(name) if type_names().contains(&name.as_str()) => types.push(name),
            _ => return Err(wrong(name, place, &format!("one of {known}"))),
        }
    }
    Ok(types)
}

/// Checks that a given value is of the type named next to it, if there is one.
pub(super) fn expect_type(
    value: &Value<'_>,
    schema: &Value<'_>,
    beside: Place<'_>,
    place: Place<'_>,
) -> Result<(), String> {
    let types = types(schema, beside)?;
    let fits = |name: &&str| match (*name, &value.kind) {
        ("object", Kind::Object(_)) | ("array", Kind::Array) | ("string", Kind::String(_)) => true,
        ("boolean", Kind::Bool(_)) | ("null", Kind::Null) | ("number", Kind::Number(_)) => true,
        ("integer", Kind::Number(number)) => number.fract() == 0.0,
        _ => false,
    };
    if types.is_empty() || types.iter().any(fits) {
        return Ok(());
    }
    let wanted = types.join(" or ");
    Err(format!("{place} is not of its type, {wanted}"))
}

/// Refuses keywords that none of the types has.
///
/// # Errors
/// A sentence that names one, and those that are allowed there.
pub(super) fn expect_keywords(
    schema: &Value<'_>,
    place: Place<'_>,
    types: &[&str],
) -> Result<(), String> {
    if types.is_empty() {
        let allowed = ["type", "$ref", "anyOf", "allOf", "enum", "const"];
        return expect_only(schema, place, "without a type", &allowed);
    }
    let mut allowed = vec!["type"];
    for (name, keywords) in TYPES {
        if types.contains(&name) {
            allowed.extend(keywords);
        }
    }
    let case = format!("next to 'type' {}", types.join(" or "));
    expect_only(schema, place, &case, &allowed)
}
