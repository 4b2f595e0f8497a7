//! Validates JSON against the part of JSON Schema that the tests use.

use miniserde::json::{Array, Number, Object, Value};

/// Why a value does not follow a schema, or nothing if it does. `whole` is the schema that
/// references are looked up in.
///
/// # Panics
/// At a keyword that it does not know: nothing is taken for valid unseen.
pub(crate) fn violation(value: &Value, schema: &Value, whole: &Value) -> Option<String> {
    let Value::Object(keywords) = schema else {
        panic!("a schema is an object");
    };
    let broken = keywords
        .iter()
        .find(|(keyword, wanted)| !holds(value, keyword, wanted, keywords, whole));
    broken.map(|(keyword, wanted)| format!("{value:?} breaks {keyword}: {wanted:?}"))
}

fn holds(value: &Value, keyword: &str, wanted: &Value, schema: &Object, whole: &Value) -> bool {
    let valid = |value: &Value, schema: &Value| violation(value, schema, whole).is_none();
    match (keyword, value) {
        ("$defs", _) => true,
        ("$ref", _) => valid(value, resolve(wanted, whole)),
        ("type", _) => text(wanted) == kind(value),
        ("enum", _) => list(wanted).iter().any(|one| same(one, value)),
        ("const", _) => same(wanted, value),
        ("anyOf" | "oneOf", _) => list(wanted).iter().any(|one| valid(value, one)),
        ("minimum", Value::Number(found)) => float(found) >= number(wanted),
        ("maximum", Value::Number(found)) => float(found) <= number(wanted),
        ("minLength", Value::String(found)) => found.chars().count() as f64 >= number(wanted),
        ("maxLength", Value::String(found)) => found.chars().count() as f64 <= number(wanted),
        ("minItems", Value::Array(found)) => found.len() as f64 >= number(wanted),
        ("maxItems", Value::Array(found)) => found.len() as f64 <= number(wanted),
        ("items", Value::Array(found)) => found.iter().all(|item| valid(item, wanted)),
        ("required", Value::Object(found)) => list(wanted)
            .iter()
            .all(|name| found.contains_key(text(name))),
        ("properties", Value::Object(found)) => object(wanted).iter().all(|(name, schema)| {
            let property = found.get(name);
            property.is_none_or(|property| valid(property, schema))
        }),
        ("additionalProperties", Value::Object(found)) => {
            let known = schema.get("properties").map(object);
            let known = |name: &String| known.is_some_and(|known| known.contains_key(name));
            found.keys().all(known)
        }
        (
            "minimum"
            | "maximum"
            | "minLength"
            | "maxLength"
            | "minItems"
            | "maxItems"
            | "items"
            | "required"
            | "properties"
            | "additionalProperties",
            _,
        ) => true,
        _ => panic!("the keyword {keyword} is not known here"),
    }
}

/// What a reference of the form `#/$defs/NAME` stands for.
fn resolve<'a>(reference: &Value, whole: &'a Value) -> &'a Value {
    let path = text(reference).strip_prefix("#/").expect("it is a path");
    path.split('/').fold(whole, |schema, step| {
        object(schema).get(step).expect("it leads somewhere")
    })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(Number::F64(_)) => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn same(a: &Value, b: &Value) -> bool {
    format!("{a:?}") == format!("{b:?}")
}

fn float(number: &Number) -> f64 {
    match *number {
        Number::U64(number) => number as f64,
        Number::I64(number) => number as f64,
        Number::F64(number) => number,
    }
}

fn number(value: &Value) -> f64 {
    match value {
        Value::Number(number) => float(number),
        _ => panic!("{value:?} is not a number"),
    }
}

fn text(value: &Value) -> &str {
    match value {
        Value::String(text) => text,
        _ => panic!("{value:?} is not a string"),
    }
}

fn list(value: &Value) -> &Array {
    match value {
        Value::Array(list) => list,
        _ => panic!("{value:?} is not an array"),
    }
}

fn object(value: &Value) -> &Object {
    match value {
        Value::Object(object) => object,
        _ => panic!("{value:?} is not an object"),
    }
}
