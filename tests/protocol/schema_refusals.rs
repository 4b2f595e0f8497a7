//! JSON schemas that are refused, each with its reason.

use std::time::{Duration, Instant};

use crate::harness::{Bridge, Directory, Tiny};

/// The object of a request with this schema.
fn with_schema(schema: &str) -> String {
    format!(r#"{{"prompt":"a","json_schema":{schema}}}"#)
}

/// Expects that each of these schemas is refused for its reason, and that the model process
/// outlives them.
fn expect_refusals(schemas: &[(&str, &str)]) {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_little_memory(&home, &model);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    for (schema, reason) in schemas {
        let message = format!("Field 'json_schema' cannot be used: {reason}");
        client.expect_refusal(&with_schema(schema), &message);
    }
    assert_eq!(
        client.generate(r#"{"prompt":"a","max_tokens":3}"#).text,
        "bcd"
    );
    assert_eq!(bridge.model_process(), child);
}

#[test]
fn a_keyword_that_is_not_on_the_list_is_refused_by_name() {
    let alone = "without a type only $ref, anyOf, allOf, enum, const are allowed";
    expect_refusals(&[
        (
            r#"{"allOf":["x"]}"#,
            "#/allOf/0 is a string; a schema must be an object ({} allows any value)",
        ),
        (
            r#"{"allOf":[{},{}]}"#,
            "#/allOf takes one schema, not 2: merge them into one",
        ),
        (
            r#"{"oneOf":[{}]}"#,
            &format!("'oneOf' at # is not supported; {alone}"),
        ),
        (
            r#"{"not":{"type":"string"}}"#,
            &format!("'not' at # is not supported; {alone}"),
        ),
        (
            r#"{"properties":{}}"#,
            &format!("'properties' at # is not supported; {alone}"),
        ),
        (
            r#"{"type":"string","pattern":"^a{5,2}$"}"#,
            "'pattern' at # is not supported; next to 'type' string only \
             minLength, maxLength, format are allowed",
        ),
        (
            r#"{"type":"array","items":{"type":"integer","multipleOf":5}}"#,
            "'multipleOf' at #/items is not supported; next to 'type' integer only \
             minimum, maximum, exclusiveMinimum, exclusiveMaximum are allowed",
        ),
        (
            r#"{"type":"object","properties":{"a/b":{"type":"number","minimum":0}}}"#,
            "'minimum' at #/properties/a~1b is not supported; \
             next to 'type' number only descriptions are allowed",
        ),
        (
            r#"{"anyOf":[{"enum":[1],"minimum":2}]}"#,
            "'minimum' at #/anyOf/0 is not supported; next to 'enum' only type is allowed",
        ),
        (
            r##"{"$defs":{"a":{}},"$ref":"#/$defs/a","type":"null"}"##,
            "'type' at # is not supported; next to '$ref' only descriptions are allowed",
        ),
        (
            r#"{"type":"array","items":{"$defs":{}}}"#,
            "'$defs' at #/items is not supported; it is allowed only at the top level of a schema",
        ),
    ]);
}

#[test]
fn a_key_that_is_given_twice_is_refused_wherever_it_stands() {
    expect_refusals(&[
        (
            r#"{"type":"string","type":"integer"}"#,
            "'type' at # is given twice",
        ),
        (
            r#"{"type":"array","minItems":1,"minItems":9,"maxItems":3}"#,
            "'minItems' at # is given twice",
        ),
        (
            r#"{"type":"object","properties":{"a":{},"b":{},"a":{}}}"#,
            "'a' at #/properties is given twice",
        ),
        (
            r#"{"const":[{"\u0061":1,"a":2}]}"#,
            "'a' at #/const/0 is given twice",
        ),
        (
            r#"{"examples":[0,{"a":1,"a":2}]}"#,
            "'a' at #/examples/1 is given twice",
        ),
    ]);
}

#[test]
fn a_reference_leads_to_a_definition_and_to_an_end() {
    let no_definition = |reference: &str| {
        format!(
            "#/$ref names '{reference}', which is not a definition; \
             a reference is #, #/$defs/NAME or #/definitions/NAME"
        )
    };
    let endless = |name: &str| {
        format!(
            "a value of {name} never ends: it contains itself in every case; \
             leave it out of 'required', or offer another choice with 'anyOf'"
        )
    };
    expect_refusals(&[
        (
            r##"{"$ref":"#/examples/0","examples":[{"type":"string","minLength":9}]}"##,
            &no_definition("#/examples/0"),
        ),
        (r##"{"$ref":"#"}"##, &endless("#")),
        (
            r##"{"$ref":"#/$defs/none","$defs":{}}"##,
            &no_definition("#/$defs/none"),
        ),
        (
            r#"{"$ref":"https://example.com/schema.json"}"#,
            &no_definition("https://example.com/schema.json"),
        ),
        (
            r#"{"$ref":5}"#,
            "#/$ref takes a string such as \"#/$defs/NAME\", not 5",
        ),
        (
            r##"{"$defs":{"a":{"type":"object","properties":{"a":{"$ref":"#/$defs/a"}},
                "required":["a"]}},"$ref":"#/$defs/a"}"##,
            &endless("#/$defs/a"),
        ),
        (
            r##"{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}"##,
            &endless("#/$defs/a"),
        ),
        (
            r##"{"definitions":{"a":{"type":"array","items":{"$ref":"#/definitions/a"},
                "minItems":1}}}"##,
            &endless("#/definitions/a"),
        ),
        (
            r##"{"$defs":{"a":{"anyOf":[{"$ref":"#/$defs/a"},{"type":"null"}]}}}"##,
            "#/$defs/a refers to itself with nothing in between; \
             a definition can contain itself only inside an object or array",
        ),
    ]);
}

#[test]
fn a_number_that_cannot_be_kept_is_refused() {
    let bound = "a whole number from -9007199254740991 to 9007199254740991";
    let count = "a whole number from 0 to 2000";
    expect_refusals(&[
        (
            r#"{"type":"integer","minimum":-5,"maximum":1e30}"#,
            &format!("#/maximum takes {bound}, not 1e30"),
        ),
        (
            r#"{"type":"integer","minimum":1e300}"#,
            &format!("#/minimum takes {bound}, not 1e300"),
        ),
        (
            r#"{"type":"integer","exclusiveMinimum":0.5}"#,
            &format!("#/exclusiveMinimum takes {bound}, not 0.5"),
        ),
        (
            r#"{"type":"integer","minimum":9007199254740992}"#,
            &format!("#/minimum takes {bound}, not 9007199254740992"),
        ),
        (
            r#"{"type":"integer","minimum":3,"exclusiveMaximum":3}"#,
            "the bounds at # allow no number: minimum 3, maximum 2",
        ),
        (
            r#"{"type":"string","maxLength":2001}"#,
            &format!("#/maxLength takes {count}, not 2001"),
        ),
        (
            r#"{"type":"string","minLength":"x"}"#,
            &format!("#/minLength takes {count}, not 'x'"),
        ),
        (
            r#"{"type":"array","maxItems":-1}"#,
            &format!("#/maxItems takes {count}, not -1"),
        ),
        (
            r#"{"type":"array","items":{"type":"array","minItems":5,"maxItems":2}}"#,
            "'minItems' at #/items is 5, greater than 'maxItems', 2",
        ),
        (
            r#"{"type":"string","minLength":5,"maxLength":2}"#,
            "'minLength' at # is 5, greater than 'maxLength', 2",
        ),
    ]);
}

#[test]
fn a_shape_that_makes_no_sense_is_refused() {
    let types = "object, array, string, integer, number, boolean, null";
    expect_refusals(&[
        (
            r#"{"type":"colour"}"#,
            &format!("#/type takes one of {types}, not 'colour'"),
        ),
        (
            r#"{"type":5}"#,
            &format!("#/type takes one of {types}, not 5"),
        ),
        (
            r#"{"type":[]}"#,
            "#/type is empty; it takes at least one value",
        ),
        (
            r#"{"enum":[]}"#,
            "#/enum is empty; it takes at least one value",
        ),
        (
            r#"{"anyOf":[]}"#,
            "#/anyOf is empty; it takes at least one value",
        ),
        (
            r#"{"anyOf":["x"]}"#,
            "#/anyOf/0 is a string; a schema must be an object ({} allows any value)",
        ),
        (
            r#"{"type":"string","enum":["a",1]}"#,
            "#/enum/1 is not of its type, string",
        ),
        (
            r#"{"type":"integer","const":1.5}"#,
            "#/const is not of its type, integer",
        ),
        (
            r#"{"type":"string","format":"email"}"#,
            "#/format takes one of date, time, date-time, uuid, not 'email'",
        ),
        (
            r#"{"type":"string","format":"date","maxLength":9}"#,
            "'format' at # fixes the length; leave out 'minLength' and 'maxLength'",
        ),
        (
            r#"{"type":"object","properties":5}"#,
            "#/properties takes an object, not 5",
        ),
        (
            r#"{"type":"object","required":["a"]}"#,
            "'required' at # names 'a', which 'properties' does not",
        ),
        (
            r#"{"type":"object","properties":{"a":{}},"additionalProperties":{}}"#,
            "#/additionalProperties takes only false next to 'properties', not an object",
        ),
        (
            r#"{"type":"array","prefixItems":[{},{}],"maxItems":1}"#,
            "#/prefixItems has 2 items, which are always all there; \
             'minItems' and 'maxItems' must allow that",
        ),
        (
            r#"{"type":"array","items":[{}],"additionalItems":true}"#,
            "#/additionalItems takes only false, and that only next to an array of 'items', \
             not true",
        ),
    ]);
}

#[test]
fn a_schema_without_measure_is_refused_at_once() {
    let names: Vec<String> = (0..240_000).map(|n| format!("\"{n:x}\"")).collect();
    let properties = names.join(":1,");
    let required: Vec<&str> = names.iter().rev().map(String::as_str).collect();
    let large = format!(
        r#"{{"properties":{{{properties}:1}},"required":[{}]}}"#,
        required.join(",")
    );
    let large = large.as_str();
    let many = |count: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("\"p{n}\":{{}}")).collect();
        format!(
            r#"{{"type":"object","properties":{{{}}}}}"#,
            names.join(",")
        )
    };
    let definitions = format!(r#"{{"$defs":{}}}"#, &many(251)[30..many(251).len() - 1]);
    let start = Instant::now();
    expect_refusals(&[
        (large, &format!("{} bytes; the limit is 65536", large.len())),
        (
            &many(101),
            "101 properties at # are not in 'required'; the limit is 100",
        ),
        (
            &format!(r#"{{"anyOf":[{{}}{}]}}"#, ",{}".repeat(100)),
            "#/anyOf has 101 schemas; the limit is 100; \
             of values, 'enum' takes any number",
        ),
        (&definitions, "251 definitions; the limit is 250"),
    ]);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}
