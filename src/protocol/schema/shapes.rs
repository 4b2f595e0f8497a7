//! Objects, arrays, strings and numbers of a schema.

use std::collections::HashSet;

use super::checks::{expect_object, field, filled_array, wrong};
use super::literal::{gbnf, integers};
use super::{Place, Writer};
use crate::protocol::json::{Kind, Value};

/// Formats of strings, and the rules of [`super::literal::FIXED_RULES`] for them.
const FORMATS: [(&str, &str); 4] = [
    ("date", "date"),
    ("time", "time"),
    ("date-time", "date \"T\" time"),
    ("uuid", "uuid"),
];

/// Characters of a string and items of an array that can be counted: llama.cpp takes no more
/// repetitions, and a larger number for "no limit".
const COUNT_LIMIT: i64 = 2000;

/// How far a bound of an integer may lie from 0: up to 2^53 - 1 every reader of JSON can hold them,
/// and programs write this as the bound of any integer.
const INTEGER_LIMIT: i64 = (1 << 53) - 1;

/// Properties of one object that need not be there. Behind each, llama.cpp holds those that are
/// left against each token of the vocabulary.
const OPTIONAL_LIMIT: usize = 100;

impl Writer {
    /// What values of this type the schema allows.
    pub(super) fn of_type(
        &mut self,
        name: &str,
        schema: &Value<'_>,
        place: Place<'_>,
    ) -> Result<String, String> {
        match name {
            "object" => self.object(schema, place),
            "array" => self.array(schema, place),
            "string" => string(schema, place),
            "integer" => integer(schema, place),
            other => Ok(other.to_string()),
        }
    }

    fn object(&mut self, schema: &Value<'_>, place: Place<'_>) -> Result<String, String> {
        let required = required(schema, place)?;
        let further = field(schema, "additionalProperties");
        if let Some(names) = field(schema, "propertyNames")
            && names.source.split_whitespace().collect::<String>() != r#"{"type":"string"}"#
        {
            let takes = "only {\"type\":\"string\"}, which all names are";
            return Err(wrong(names, place.at("propertyNames"), takes));
        }
        let Some(properties) = field(schema, "properties") else {
            return self.record(further, place.at("additionalProperties"));
        };
        let within = place.at("properties");
        expect_object(properties, within)?;
        if let Some(further) = further.filter(|further| further.kind != Kind::Bool(false)) {
            let place = place.at("additionalProperties");
            return Err(wrong(further, place, "only false next to 'properties'"));
        }
        let mut members = Vec::new();
        for (name, value) in properties.fields() {
            let value = self.value(value, within.at(name))?;
            let key = gbnf(&format!(
                "{}:",
                miniserde::json::to_string(&name.to_string())
            ));
            let member = self.rule(format!("{key} space {value}"));
            members.push((member, required.contains(name)));
        }
        let optional = members.iter().filter(|(_, required)| !required).count();
        if optional > OPTIONAL_LIMIT {
            return Err(format!(
                "{optional} properties at {place} are not in 'required'; \
                 the limit is {OPTIONAL_LIMIT}"
            ));
        }
        let members = self.members(&members);
        Ok(format!("\"{{\" space {members} space \"}}\""))
    }

    /// An object of any properties, whose values follow this schema.
    fn record(&mut self, value: Option<&Value<'_>>, place: Place<'_>) -> Result<String, String> {
        let value = match value.map(|value| (&value.kind, value)) {
            None | Some((Kind::Bool(true), _)) => return Ok("object".to_string()),
            Some((Kind::Bool(false), _)) => return Ok("\"{\" space \"}\"".to_string()),
            Some((_, value)) => self.value(value, place)?,
        };
        let member = self.rule(format!("string \":\" space {value}"));
        let more = format!("(\",\" space {member})*");
        Ok(format!("\"{{\" space ({member} {more})? space \"}}\""))
    }

    /// The members of an object in their order, each with whether it must be there.
    fn members(&mut self, members: &[(String, bool)]) -> String {
        let following = |(member, required): &(String, bool)| match required {
            true => format!(" \",\" space {member}"),
            false => format!(" (\",\" space {member})?"),
        };
        // Up to the first that must be there, each may be the one without a comma before it.
        let fixed = members.iter().position(|(_, required)| *required);
        let mut choices = Vec::new();
        let mut rest = String::new();
        if let Some(fixed) = fixed {
            rest = members[fixed + 1..].iter().map(following).collect();
            choices.push(format!("{}{rest}", members[fixed].0));
        }
        for at in (0..fixed.unwrap_or(members.len())).rev() {
            if let Some(next) = members.get(at + 1) {
                rest = format!(
                    " {}",
                    self.rule(format!("{}{rest}", following(next).trim_start()))
                );
            }
            choices.push(format!("{}{rest}", members[at].0));
        }
        choices.reverse();
        match (fixed, choices.is_empty()) {
            (Some(0), _) | (_, true) => choices.concat(),
            (Some(_), _) => format!("({})", choices.join(" | ")),
            (None, _) => format!("({})?", choices.join(" | ")),
        }
    }

    fn array(&mut self, schema: &Value<'_>, place: Place<'_>) -> Result<String, String> {
        let (least, most) = counts(schema, place, "minItems", "maxItems")?;
        let items = field(schema, "items");
        // Before JSON Schema 2020-12, `items` meant what `prefixItems` means now.
        let listed = items.filter(|items| items.kind == Kind::Array);
        if let Some(further) = field(schema, "additionalItems")
            && (listed.is_none() || further.kind != Kind::Bool(false))
        {
            let takes = "only false, and that only next to an array of 'items'";
            return Err(wrong(further, place.at("additionalItems"), takes));
        }
        if let Some(prefix) = field(schema, "prefixItems") {
            if let Some(further) = items.filter(|items| items.kind != Kind::Bool(false)) {
                let takes = "only false next to 'prefixItems'";
                return Err(wrong(further, place.at("items"), takes));
            }
            return self.tuple(prefix, place.at("prefixItems"), (least, most));
        }
        if let Some(listed) = listed {
            return self.tuple(listed, place.at("items"), (least, most));
        }
        let item = match items {
            Some(items) => self.value(items, place.at("items"))?,
            None => "value".to_string(),
        };
        let more = self.rule(format!("\",\" space {item}"));
        let items = match (least, most) {
            (_, Some(0)) => String::new(),
            (0 | 1, Some(1)) => item,
            (0 | 1, None) => format!("{item} {more}*"),
            (_, None) => format!("{item} {more}{{{},}}", least - 1),
            (_, Some(most)) => {
                format!("{item} {more}{{{},{}}}", (least - 1).max(0), most - 1)
            }
        };
        let items = match least {
            0 if !items.is_empty() => format!("({items})?"),
            _ => items,
        };
        Ok(format!("\"[\" space {items} space \"]\""))
    }

    /// An array whose items follow a schema each.
    fn tuple(
        &mut self,
        items: &Value<'_>,
        place: Place<'_>,
        (least, most): (i64, Option<i64>),
    ) -> Result<String, String> {
        let items = filled_array(items, place)?;
        let count = items.len() as i64;
        if least > count || most.is_some_and(|most| most < count) {
            return Err(format!(
                "{place} has {count} items, which are always all there; \
                 'minItems' and 'maxItems' must allow that"
            ));
        }
        let mut names = Vec::new();
        for (at, item) in items.iter().enumerate() {
            names.push(self.value(item, place.at(&at.to_string()))?);
        }
        let items = names.join(" \",\" space ");
        Ok(format!("\"[\" space {items} space \"]\""))
    }
}

/// The names of properties that must be there.
fn required<'a>(schema: &'a Value<'_>, place: Place<'_>) -> Result<HashSet<&'a str>, String> {
    let mut required = HashSet::new();
    let Some(names) = field(schema, "required") else {
        return Ok(required);
    };
    let within = place.at("required");
    if names.kind != Kind::Array {
        return Err(wrong(names, within, "an array of names"));
    }
    let properties = field(schema, "properties");
    let known: HashSet<&str> = match properties {
        Some(properties) => properties.fields().map(|(name, _)| name).collect(),
        None => HashSet::new(),
    };
    for name in &names.items {
        match &name.kind {
            Kind::String(name) if known.contains(&name[..]) => required.insert(&name[..]),
            Kind::String(name) => {
                return Err(format!(
                    "'required' at {place} names '{name}', which 'properties' does not"
                ));
            }
            _ => return Err(wrong(name, within, "names of properties")),
        };
    }
    Ok(required)
}

fn string(schema: &Value<'_>, place: Place<'_>) -> Result<String, String> {
    let (least, most) = counts(schema, place, "minLength", "maxLength")?;
    let counted = field(schema, "minLength")
        .or(field(schema, "maxLength"))
        .is_some();
    let Some(format) = field(schema, "format") else {
        return Ok(match (counted, most) {
            (false, _) => "string".to_string(),
            (true, None) => format!("\"\\\"\" char{{{least},}} \"\\\"\""),
            (true, Some(0)) => "\"\\\"\\\"\"".to_string(),
            (true, Some(most)) => format!("\"\\\"\" char{{{least},{most}}} \"\\\"\""),
        });
    };
    let known = FORMATS
        .iter()
        .find(|(name, _)| format.kind == Kind::String(name.to_string()));
    let Some((_, rule)) = known else {
        let names = FORMATS.map(|(name, _)| name).join(", ");
        return Err(wrong(
            format,
            place.at("format"),
            &format!("one of {names}"),
        ));
    };
    if counted {
        return Err(format!(
            "'format' at {place} fixes the length; leave out 'minLength' and 'maxLength'"
        ));
    }
    Ok(format!("\"\\\"\" {rule} \"\\\"\""))
}

fn integer(schema: &Value<'_>, place: Place<'_>) -> Result<String, String> {
    let bound = |name| whole(schema, place, name, -INTEGER_LIMIT, INTEGER_LIMIT);
    let lower = [bound("minimum")?, bound("exclusiveMinimum")?.map(|n| n + 1)];
    let upper = [bound("maximum")?, bound("exclusiveMaximum")?.map(|n| n - 1)];
    let least = lower.into_iter().flatten().max();
    let most = upper.into_iter().flatten().min();
    if least.is_none() && most.is_none() {
        return Ok("integer".to_string());
    }
    let (least, most) = (
        least.unwrap_or(-INTEGER_LIMIT),
        most.unwrap_or(INTEGER_LIMIT),
    );
    if least > most {
        return Err(format!(
            "the bounds at {place} allow no number: minimum {least}, maximum {most}"
        ));
    }
    Ok(integers(least, most))
}

/// The least count, 0 if it is not given, and the most.
fn counts(
    schema: &Value<'_>,
    place: Place<'_>,
    low: &str,
    high: &str,
) -> Result<(i64, Option<i64>), String> {
    let least = whole(schema, place, low, 0, COUNT_LIMIT)?.unwrap_or(0);
    let most = whole(schema, place, high, 0, COUNT_LIMIT)?;
    match most {
        Some(most) if least > most => Err(format!(
            "'{low}' at {place} is {least}, greater than '{high}', {most}"
        )),
        _ => Ok((least, most)),
    }
}

/// The whole number that a keyword gives, if it is there.
fn whole(
    schema: &Value<'_>,
    place: Place<'_>,
    name: &str,
    low: i64,
    high: i64,
) -> Result<Option<i64>, String> {
    let Some(value) = field(schema, name) else {
        return Ok(None);
    };
    match value.kind {
        Kind::Number(n) if n.fract() == 0.0 && n >= low as f64 && n <= high as f64 => {
            Ok(Some(n as i64))
        }
        _ => {
            let takes = format!("a whole number from {low} to {high}");
            Err(wrong(value, place.at(name), &takes))
        }
    }
}
