//! Definitions that refer to each other: every value of them must come to an end, and no `$ref`
//! may lead back to itself before anything of the value is written.

use std::collections::HashSet;

use super::Definition;
use super::checks::field;
use crate::protocol::json::{Kind, Value};

/// Looks at all definitions.
///
/// # Errors
/// A sentence that names one.
pub(super) fn check(definitions: &[Definition<'_>]) -> Result<(), String> {
    if let Some(reference) = never(definitions, ends) {
        return Err(format!(
            "a value of {reference} never ends: it contains itself in every case; \
             leave it out of 'required', or offer another choice with 'anyOf'"
        ));
    }
    if let Some(reference) = never(definitions, begins) {
        return Err(format!(
            "{reference} refers to itself with nothing in between; \
             a definition can contain itself only inside an object or array"
        ));
    }
    Ok(())
}

/// The first definition for which `holds` cannot be shown, given that it holds for those for which
/// it was shown before.
fn never<'a>(
    definitions: &'a [Definition<'_>],
    holds: fn(&Value<'_>, &HashSet<&str>) -> bool,
) -> Option<&'a str> {
    let mut shown: HashSet<&str> = HashSet::new();
    loop {
        let before = shown.len();
        for (reference, value, _) in definitions {
            if !shown.contains(&reference[..]) && holds(value, &shown) {
                shown.insert(reference);
            }
        }
        if shown.len() == before {
            let mut all = definitions.iter().map(|(reference, ..)| &reference[..]);
            return all.find(|reference| !shown.contains(reference));
        }
    }
}

/// Whether a value of the schema can end, if those of the definitions `ending` can.
fn ends(schema: &Value<'_>, ending: &HashSet<&str>) -> bool {
    if let Some(reference) = reference(schema) {
        return ending.contains(reference);
    }
    if let Some(choices) = choices(schema) {
        return choices.items.iter().any(|choice| ends(choice, ending));
    }
    let named = field(schema, "type").into_iter();
    let mut types = named.flat_map(|named| match named.kind {
        Kind::Array => named.items.iter().filter_map(text).collect(),
        _ => Vec::from_iter(text(named)),
    });
    // Of several types it is enough if the values of one do; without any there is no `$ref`.
    field(schema, "type").is_none()
        || types.any(|name| match name {
            "object" => object_ends(schema, ending),
            "array" => array_ends(schema, ending),
            _ => true,
        })
}

fn object_ends(schema: &Value<'_>, ending: &HashSet<&str>) -> bool {
    let required: HashSet<&str> = match field(schema, "required") {
        Some(names) => names.items.iter().filter_map(text).collect(),
        None => HashSet::new(),
    };
    field(schema, "properties").is_none_or(|properties| {
        let mut fields = properties.fields();
        fields.all(|(name, value)| !required.contains(name) || ends(value, ending))
    })
}

fn array_ends(schema: &Value<'_>, ending: &HashSet<&str>) -> bool {
    let known = |name: &str| field(schema, name);
    let some = known("minItems").is_some_and(|least| least.kind != Kind::Number(0.0));
    let all = |value: &Value<'_>| value.items.iter().all(|item| ends(item, ending));
    let items = known("items").is_none_or(|items| match items.kind {
        Kind::Array => all(items),
        _ => !some || ends(items, ending),
    });
    items && known("prefixItems").is_none_or(all)
}

/// Whether a value of the schema begins with something of its own, if those of the definitions
/// `beginning` do.
fn begins(schema: &Value<'_>, beginning: &HashSet<&str>) -> bool {
    if let Some(reference) = reference(schema) {
        return beginning.contains(reference);
    }
    let choices = choices(schema).map_or(&[][..], |choices| &choices.items);
    choices.iter().all(|choice| begins(choice, beginning))
}

/// The schemas of which a value follows one; of an `allOf` there is only one.
fn choices<'a, 'b>(schema: &'a Value<'b>) -> Option<&'a Value<'b>> {
    field(schema, "anyOf").or(field(schema, "allOf"))
}

fn reference<'a>(schema: &'a Value<'_>) -> Option<&'a str> {
    field(schema, "$ref").and_then(text)
}

fn text<'a>(value: &'a Value<'_>) -> Option<&'a str> {
    match &value.kind {
        Kind::String(text) => Some(text),
        _ => None,
    }
}
