//! What llama.cpp's converter makes of a JSON schema: it passes over keywords that it cannot turn
//! into a grammar, and the answer then need not follow them. Here such a schema is refused.

use crate::json::{Kind, Value};

/// Keywords that say nothing about what a value may be.
const ANNOTATIONS: [&str; 12] = [
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "default",
    "definitions",
    "deprecated",
    "description",
    "examples",
    "readOnly",
    "title",
    "writeOnly",
];

/// Keywords beside which the converter looks at nothing but `type`, in the order in which it looks.
const ALONE: [&str; 6] = ["$ref", "oneOf", "anyOf", "const", "enum", "allOf"];

/// The keywords that the converter keeps for values of a type.
const KEPT: [(&str, &[&str]); 7] = [
    (
        "object",
        &["properties", "required", "additionalProperties"],
    ),
    ("array", &["items", "prefixItems", "minItems", "maxItems"]),
    ("string", &["pattern", "format", "minLength", "maxLength"]),
    (
        "integer",
        &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
    ),
    ("number", &[]),
    ("boolean", &[]),
    ("null", &[]),
];

/// The formats of strings that the converter knows.
const FORMATS: [&str; 9] = [
    "date",
    "time",
    "date-time",
    "uuid",
    "uuid1",
    "uuid2",
    "uuid3",
    "uuid4",
    "uuid5",
];

/// Keywords of which only one can be kept.
const EXCLUSIVE: [(&str, &str); 7] = [
    ("minimum", "exclusiveMinimum"),
    ("maximum", "exclusiveMaximum"),
    ("items", "prefixItems"),
    ("prefixItems", "minItems"),
    ("prefixItems", "maxItems"),
    ("pattern", "format"),
    ("format", "minLength"),
];

/// Bounds, the lower one first.
const BOUNDS: [(&str, &str); 3] = [
    ("minItems", "maxItems"),
    ("minLength", "maxLength"),
    ("minimum", "maximum"),
];

/// Looks whether a schema can be kept to, whole.
///
/// # Errors
/// A sentence that names the keyword, and where in the schema it stands.
pub(crate) fn check(schema: &Value<'_>) -> Result<(), String> {
    check_at(schema, "#")
}

fn check_at(schema: &Value<'_>, place: &str) -> Result<(), String> {
    if !matches!(schema.kind, Kind::Object(_)) {
        // true and false are schemas, too; anything else the converter refuses.
        return Ok(());
    }
    check_keywords(schema, place)?;
    check_bounds(schema, place)?;
    check_required(schema, place)?;
    for (name, value) in schema.fields() {
        let place = format!("{place}/{name}");
        match name {
            "properties" | "$defs" | "definitions" => {
                for (name, schema) in value.fields() {
                    check_at(schema, &format!("{place}/{name}"))?;
                }
            }
            "items" | "prefixItems" | "oneOf" | "anyOf" | "allOf" => {
                check_at(value, &place)?;
                if value.kind == Kind::Array {
                    for (at, schema) in value.items.iter().enumerate() {
                        check_at(schema, &format!("{place}/{at}"))?;
                    }
                }
            }
            "additionalProperties" => check_at(value, &place)?,
            _ => (),
        }
    }
    Ok(())
}

fn check_keywords(schema: &Value<'_>, place: &str) -> Result<(), String> {
    let alone = ALONE.iter().find(|name| field(schema, name).is_some());
    let types = types(schema);
    for (name, value) in schema.fields() {
        let kept = match alone {
            Some(alone) => name == *alone || name == "type",
            None => name == "type" || kept_for(&types, name),
        };
        if !kept && !ANNOTATIONS.contains(&name) {
            let beside = match alone {
                Some(alone) => format!("beside '{alone}'"),
                None if types.is_empty() => "without a 'type'".to_string(),
                None => format!("for the type {}", types.join(" or ")),
            };
            return Err(format!("'{name}' at {place} cannot be kept to {beside}"));
        }
        if let ("format", Kind::String(format)) = (name, &value.kind)
            && !FORMATS.contains(&format.as_str())
        {
            let known = FORMATS.join(", ");
            return Err(format!(
                "the format '{format}' at {place} cannot be kept to; those that can are {known}"
            ));
        }
    }
    let both = |(a, b): &&(&str, &str)| field(schema, a).is_some() && field(schema, b).is_some();
    match EXCLUSIVE.iter().find(both) {
        Some((a, b)) if alone.is_none() => {
            Err(format!("'{a}' and '{b}' at {place} cannot both be kept to"))
        }
        _ => Ok(()),
    }
}

/// The types that a schema names, or that its keywords imply as the converter sees it.
fn types(schema: &Value<'_>) -> Vec<String> {
    let text = |value: &Value<'_>| match &value.kind {
        Kind::String(text) => Some(text.clone()),
        _ => None,
    };
    if let Some(named) = field(schema, "type") {
        return match named.kind {
            Kind::Array => named.items.iter().filter_map(text).collect(),
            _ => text(named).into_iter().collect(),
        };
    }
    let implied = |(kind, keywords): &&(&str, &[&str])| {
        *kind != "integer" && keywords.iter().any(|name| field(schema, name).is_some())
    };
    let implied = KEPT.iter().find(implied);
    implied
        .map(|(kind, _)| kind.to_string())
        .into_iter()
        .collect()
}

fn kept_for(types: &[String], keyword: &str) -> bool {
    KEPT.iter()
        .any(|(kind, kept)| types.iter().any(|t| t == kind) && kept.contains(&keyword))
}

fn check_bounds(schema: &Value<'_>, place: &str) -> Result<(), String> {
    let number = |name: &str| match field(schema, name)?.kind {
        Kind::Number(number) => Some(number),
        _ => None,
    };
    for (low, high) in BOUNDS {
        if let (Some(least), Some(most)) = (number(low), number(high))
            && least > most
        {
            return Err(format!(
                "'{low}' at {place} is {least}, more than '{high}', which is {most}"
            ));
        }
    }
    Ok(())
}

/// The converter requires no property that it was not told of.
fn check_required(schema: &Value<'_>, place: &str) -> Result<(), String> {
    let properties = field(schema, "properties");
    let known = |name: &str| properties.is_some_and(|p| field(p, name).is_some());
    let required = field(schema, "required").map_or(&[][..], |value| &value.items[..]);
    for name in required {
        if let Kind::String(name) = &name.kind
            && !known(name)
        {
            return Err(format!(
                "'required' at {place} names '{name}', which 'properties' does not"
            ));
        }
    }
    Ok(())
}

fn field<'a, 'b>(schema: &'a Value<'b>, name: &str) -> Option<&'a Value<'b>> {
    let mut fields = schema.fields();
    fields.find(|(key, _)| *key == name).map(|(_, value)| value)
}
