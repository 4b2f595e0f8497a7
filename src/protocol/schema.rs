//! From a JSON schema to a grammar (GBNF) of exactly the answers that follow it.
//!
//! A schema is taken by a closed list of keywords and shapes; whatever else is in it is refused
//! by name. What is checked and what is written come out of the same walk, so that nothing is
//! checked that does not hold, and nothing holds that was not checked. llama.cpp has a converter of
//! its own, which passes over what it does not know, takes `"minimum":100` for one that allows 10,
//! and mixes up the rules of properties such as `date_time` with its own: the answers need not
//! follow the schema, and there is no telling when.

mod checks;
mod literal;
mod recursion;
mod shapes;
mod types;

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::protocol::json::{Kind, Value};
use checks::{expect_object, expect_only, field, filled_array, wrong};
use literal::{FIXED_RULES, gbnf};
use types::{expect_keywords, expect_type, types};

/// Bytes of a schema. Those that programs write have a few thousand; this many are checked and
/// written in a few milliseconds, in which the bridge can do nothing else. How deep a schema can
/// be is bounded where it is read, by [`crate::protocol::json::DEPTH_LIMIT`].
const LARGEST: usize = 64 * 1024;

/// Definitions of a schema. Each can refer to any other, so that all are gone through once for each
/// to find out which values come to an end.
const DEFINITIONS_LIMIT: usize = 250;

/// Schemas in an `anyOf`. llama.cpp holds all of them at once against each token of the vocabulary.
const CHOICES_LIMIT: usize = 100;

/// Keywords that do not restrict what a value may be.
const ANNOTATIONS: [&str; 8] = [
    "$comment",
    "default",
    "deprecated",
    "description",
    "examples",
    "readOnly",
    "title",
    "writeOnly",
];

/// Keywords that are allowed at the top level of a schema next to any other.
const AT_THE_TOP: [&str; 4] = ["$schema", "$id", "$defs", "definitions"];

/// The keywords at the top that hold what a `$ref` can name.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];

/// Makes the grammar of a schema; its rule `root` is the answer.
///
/// # Errors
/// A sentence that names the keyword, its place in the schema, and what would be right.
pub fn grammar(schema: &Value<'_>) -> Result<String, String> {
    let size = schema.source.len();
    if size > LARGEST {
        return Err(format!("{size} bytes; the limit is {LARGEST}"));
    }
    expect_single_keys(schema, Place::TOP)?;
    let mut definitions = definitions(schema)?;
    let mut writer = Writer {
        references: HashMap::from([(Place::TOP.to_string(), "root".to_string())]),
        rules: Vec::new(),
        names: HashMap::new(),
    };
    for (at, (reference, ..)) in definitions.iter().enumerate() {
        let name = format!("definition{at}");
        writer.references.insert(reference.clone(), name);
    }
    for (reference, value, [keyword, name]) in &definitions {
        let above = Place::TOP.at(keyword);
        let text = writer.value(value, above.at(name))?;
        let rule = format!("{} ::= {text}\n", writer.references[reference]);
        writer.rules.push(rule);
    }
    let root = writer.value(schema, Place::TOP)?;
    definitions.push((Place::TOP.to_string(), schema, ["", ""]));
    recursion::check(&definitions)?;
    let rules = writer.rules.concat();
    Ok(format!("root ::= {root}\n{rules}{FIXED_RULES}"))
}

/// A place in a schema; shown as a JSON pointer.
#[derive(Clone, Copy)]
struct Place<'a> {
    above: Option<&'a Place<'a>>,
    name: &'a str,
}

impl Place<'_> {
    const TOP: Place<'static> = Place {
        above: None,
        name: "#",
    };

    fn at<'a>(&'a self, name: &'a str) -> Place<'a> {
        Place {
            above: Some(self),
            name,
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.above {
            None => out.write_str(self.name),
            Some(above) => {
                let name = self.name.replace('~', "~0").replace('/', "~1");
                write!(out, "{above}/{name}")
            }
        }
    }
}

/// A definition: how a `$ref` names it, what it is, and the two keys that lead to it.
type Definition<'a> = (String, &'a Value<'a>, [&'a str; 2]);

/// All definitions, in the order of the text.
fn definitions<'a>(schema: &'a Value<'a>) -> Result<Vec<Definition<'a>>, String> {
    let mut found = Vec::new();
    for keyword in DEFINITIONS {
        let Some(value) = field(schema, keyword) else {
            continue;
        };
        expect_object(value, Place::TOP.at(keyword))?;
        for (name, value) in value.fields() {
            let reference = Place::TOP.at(keyword).at(name).to_string();
            found.push((reference, value, [keyword, name]));
        }
    }
    if found.len() > DEFINITIONS_LIMIT {
        let found = found.len();
        return Err(format!(
            "{found} definitions; the limit is {DEFINITIONS_LIMIT}"
        ));
    }
    Ok(found)
}

/// JSON leaves open which of two values of one key counts, so no key may come twice.
fn expect_single_keys(value: &Value<'_>, place: Place<'_>) -> Result<(), String> {
    let mut seen = HashSet::new();
    for (name, value) in value.fields() {
        if !seen.insert(name) {
            return Err(format!("'{name}' at {place} is given twice"));
        }
        expect_single_keys(value, place.at(name))?;
    }
    if value.kind == Kind::Array {
        for (at, value) in value.items.iter().enumerate() {
            expect_single_keys(value, place.at(&at.to_string()))?;
        }
    }
    Ok(())
}

/// Writes the rules of a schema.
struct Writer {
    /// For each definition, how a `$ref` names it, and its rule.
    references: HashMap<String, String>,
    /// The rules that are written already, each with its newline.
    rules: Vec<String>,
    /// The names of rules by their bodies: what comes twice is written once.
    names: HashMap<String, String>,
}

impl Writer {
    /// The name of a rule with this body.
    fn rule(&mut self, text: String) -> String {
        if let Some(name) = self.names.get(&text) {
            return name.clone();
        }
        let name = format!("rule{}", self.names.len());
        self.rules.push(format!("{name} ::= {text}\n"));
        self.names.insert(text, name.clone());
        name
    }

    /// Writes what a schema allows; returns the name of its rule.
    fn value(&mut self, schema: &Value<'_>, place: Place<'_>) -> Result<String, String> {
        if !matches!(schema.kind, Kind::Object(_)) {
            let kind = schema.kind.name();
            return Err(format!(
                "{place} is {kind}; a schema must be an object ({{}} allows any value)"
            ));
        }
        if let Some(reference) = field(schema, "$ref") {
            expect_only(schema, place, "next to '$ref'", &["$ref"])?;
            return self.reference(reference, place.at("$ref"));
        }
        if let Some(choices) = field(schema, "anyOf") {
            expect_only(schema, place, "next to 'anyOf'", &["anyOf"])?;
            return self.any_of(choices, place.at("anyOf"));
        }
        if let Some(parts) = field(schema, "allOf") {
            expect_only(schema, place, "next to 'allOf'", &["allOf"])?;
            return self.all_of(parts, place.at("allOf"));
        }
        if let Some(value) = field(schema, "const") {
            expect_only(schema, place, "next to 'const'", &["const", "type"])?;
            expect_type(value, schema, place, place.at("const"))?;
            return Ok(self.rule(gbnf(&literal::json(value))));
        }
        if let Some(values) = field(schema, "enum") {
            expect_only(schema, place, "next to 'enum'", &["enum", "type"])?;
            return self.enumeration(values, schema, place);
        }
        let types = types(schema, place)?;
        expect_keywords(schema, place, &types)?;
        let mut texts = Vec::new();
        for name in &types {
            texts.push(self.of_type(name, schema, place)?);
        }
        Ok(match &texts[..] {
            [] => "value".to_string(),
            [text] => self.rule(text.clone()),
            _ => self.rule(texts.join(" | ")),
        })
    }

    fn reference(&mut self, value: &Value<'_>, place: Place<'_>) -> Result<String, String> {
        let Kind::String(reference) = &value.kind else {
            return Err(wrong(value, place, "a string such as \"#/$defs/NAME\""));
        };
        self.references.get(reference).cloned().ok_or_else(|| {
            format!(
                "{place} names '{reference}', which is not a definition; \
                 a reference is #, #/$defs/NAME or #/definitions/NAME"
            )
        })
    }

    fn any_of(&mut self, choices: &Value<'_>, place: Place<'_>) -> Result<String, String> {
        let choices = filled_array(choices, place)?;
        if choices.len() > CHOICES_LIMIT {
            return Err(format!(
                "{place} has {} schemas; the limit is {CHOICES_LIMIT}; \
                 of values, 'enum' takes any number",
                choices.len()
            ));
        }
        let mut names = Vec::new();
        for (at, choice) in choices.iter().enumerate() {
            names.push(self.value(choice, place.at(&at.to_string()))?);
        }
        Ok(self.rule(names.join(" | ")))
    }

    /// Some programs write a `$ref` as the only one of an `allOf`, to add a description to it.
    fn all_of(&mut self, parts: &Value<'_>, place: Place<'_>) -> Result<String, String> {
        match filled_array(parts, place)? {
            [part] => self.value(part, place.at("0")),
            parts => Err(format!(
                "{place} takes one schema, not {}: merge them into one",
                parts.len()
            )),
        }
    }

    fn enumeration(
        &mut self,
        values: &Value<'_>,
        schema: &Value<'_>,
        place: Place<'_>,
    ) -> Result<String, String> {
        let within = place.at("enum");
        let mut texts = Vec::new();
        for (at, value) in filled_array(values, within)?.iter().enumerate() {
            expect_type(value, schema, place, within.at(&at.to_string()))?;
            texts.push(literal::json(value));
        }
        texts.sort();
        texts.dedup();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        Ok(self.one_of(&texts))
    }

    /// One of these texts, which are sorted and of which no two are the same. What several begin
    /// with is written once: llama.cpp holds each choice against the whole vocabulary.
    fn one_of(&mut self, texts: &[&str]) -> String {
        let mut choices = Vec::new();
        let mut rest = texts;
        while let Some(first) = rest.first() {
            let start = first.chars().next();
            let alike = |text: &&&str| text.chars().next() == start;
            let (group, others) = rest.split_at(rest.iter().take_while(alike).count());
            rest = others;
            // Of sorted texts, what the first and the last share, all do.
            let shared = shared_start(first, group[group.len() - 1]);
            let begin = gbnf(&first[..shared]);
            choices.push(match group {
                [_] => begin,
                _ => {
                    let ends: Vec<&str> = group.iter().map(|text| &text[shared..]).collect();
                    format!("{begin} {}", self.one_of(&ends))
                }
            });
        }
        self.rule(choices.join(" | "))
    }
}

/// Bytes of the characters that two texts begin with alike.
fn shared_start(one: &str, other: &str) -> usize {
    let pairs = one.chars().zip(other.chars());
    pairs
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len_utf8())
        .sum()
}

#[cfg(test)]
mod tests;
