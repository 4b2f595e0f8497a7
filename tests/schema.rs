//! JSON schemas: answers that are JSON, and follow them.

use std::time::{Duration, Instant};

use crate::harness::schema::{Schemas, violations};
use crate::harness::{Bridge, Directory, Tiny, carousel, failure, quoted, smollm2_or_skip};

/// The object of a request with this schema.
fn with_schema(prompt: &str, schema: &str, fields: &str) -> String {
    let prompt = quoted(prompt);
    format!(r#"{{"prompt":{prompt},"json_schema":{schema}{fields}}}"#)
}

#[test]
fn a_real_model_keeps_to_schemas_of_all_kinds() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    let mut schemas = Schemas(8);
    let mut pairs = Vec::new();
    for seed in 0..200 {
        let schema = schemas.whole();
        let fields = format!(r#","temperature":1,"seed":{seed},"max_tokens":24"#);
        let answer = client.generate(&with_schema("JSON: ", &schema, &fields));
        // One that is cut follows the schema as far as it goes, which no validator can tell.
        if answer.finish_reason == "stop" {
            pairs.push((schema, answer.text));
        }
    }
    assert!(pairs.len() > 120, "only {} answers ended", pairs.len());
    for (found, (schema, text)) in violations(&pairs).iter().zip(&pairs) {
        assert_eq!(found, "", "{schema}\n{text}");
    }
}

#[test]
fn the_validator_finds_what_is_wrong() {
    // Lest the test above pass whatever the model writes.
    let object = r#"{"type":"object","properties":{"a":{"type":"integer","minimum":18}},
        "required":["a"],"additionalProperties":false}"#;
    let wrong = [
        (object, r#"{"a":17}"#),
        (object, r#"{"a":18.5}"#),
        (object, "{}"),
        (object, r#"{"a":18,"b":1}"#),
        (object, "{"),
        (object, r#"{"a":NaN}"#),
        (r#"{"type":"string","minLength":2}"#, r#""é""#),
        (r#"{"type":"string","format":"date"}"#, r#""2023-02-29""#),
        (r#"{"type":"string","format":"time"}"#, r#""12:00""#),
        (
            r#"{"type":"string","format":"date-time"}"#,
            r#""2023-04-31T12:00:00Z""#,
        ),
        (r#"{"type":"string","format":"uuid"}"#, r#""0-0-0-0-0""#),
        (r#"{"type":"array","maxItems":1}"#, "[1,2]"),
        (r#"{"enum":["a",null]}"#, "0"),
        (r#"{"type":"text"}"#, "0"),
    ];
    let right = [
        (object, r#"{"a":18}"#),
        (r#"{"type":"string","format":"date"}"#, r#""2024-02-29""#),
        (
            r#"{"type":"string","format":"time"}"#,
            r#""23:59:59.25+01:00""#,
        ),
        (
            r#"{"type":"string","format":"date-time"}"#,
            r#""2023-04-30T12:00:00Z""#,
        ),
    ];
    let owned = |(schema, text): &(&str, &str)| (schema.to_string(), text.to_string());
    let pairs: Vec<(String, String)> = wrong.iter().chain(&right).map(owned).collect();
    let found = violations(&pairs);
    for (at, found) in found.iter().enumerate() {
        assert_eq!(
            found.is_empty(),
            at >= wrong.len(),
            "{:?}: {found}",
            pairs[at]
        );
    }
}

#[test]
fn a_schema_that_leaves_no_choice_is_followed_to_the_letter() {
    let home = Directory::new();
    let bridge = carousel(&home, &["-n", "40"]);
    let mut client = bridge.connect();
    for (schema, text) in [
        (r#"{"const":"bcd"}"#, r#""bcd""#),
        (r#"{"const":{"a":[1,true,null]}}"#, r#"{"a":[1,true,null]}"#),
        (r#"{"enum":["\u00e9\"\\"]}"#, "\"\u{e9}\\\"\\\\\""),
        (r#"{"type":"null"}"#, "null"),
        (r#"{"type":"integer","minimum":7,"maximum":7}"#, "7"),
        (
            r#"{"type":"integer","exclusiveMinimum":-8,"exclusiveMaximum":-6}"#,
            "-7",
        ),
        (r#"{"type":"string","maxLength":0}"#, r#""""#),
    ] {
        let answer = client.generate(&with_schema("a", schema, r#","stream":true"#));
        assert_eq!(answer.text, text, "{schema}");
        assert_eq!(answer.pieces.concat(), text, "{schema}");
        assert_eq!(answer.finish_reason, "stop", "{schema}");
    }
}

/// Has a model that knows nothing but these characters, all alike, answer by chance, and gives
/// the different answers that come of 60 seeds.
fn by_chance(schema: &str, characters: &str) -> Vec<String> {
    let home = Directory::new();
    let dice = characters
        .bytes()
        .fold(Tiny::mute(), |model, byte| model.choice(byte, characters));
    let bridge = Bridge::with_model(&home, &dice.write(home.join("dice.gguf")), &[]);
    let mut client = bridge.connect();
    let mut texts = Vec::new();
    for seed in 0..60 {
        let fields = format!(r#","temperature":1,"seed":{seed},"max_tokens":80"#);
        let prompt = &characters[..1];
        let answer = client.generate(&with_schema(prompt, schema, &fields));
        assert_eq!(answer.finish_reason, "stop", "{answer:?}");
        texts.push(answer.text);
    }
    texts.sort();
    texts.dedup();
    texts
}

#[test]
fn a_bound_of_three_digits_is_kept() {
    // llama.cpp's own converter takes 10 for a number from 100 on, and 15 for one from 105 on.
    let home = Directory::new();
    for (said, least, number) in [("10", 100, "100"), ("15", 105, "150")] {
        let model = Tiny::mute().chain(&format!("!{said}"));
        let bridge = Bridge::with_model(&home, &model.write(home.join("tiny.gguf")), &[]);
        let schema = format!(r#"{{"type":"integer","minimum":{least}}}"#);
        let answer = bridge.connect().generate(&with_schema("!", &schema, ""));
        assert_eq!(answer.text, number);
    }
}

#[test]
fn a_property_with_the_name_of_a_rule_is_no_such_rule() {
    // llama.cpp's own converter gives the second property the values of the first.
    let schema = r#"{"type":"object","properties":{"integral part":{"const":"x"},
        "n":{"type":"integer"}},"required":["integral part","n"]}"#;
    let texts = by_chance(schema, "0123456789");
    assert!(texts.len() > 10, "{texts:?}");
    let pairs: Vec<_> = texts
        .iter()
        .map(|text| (schema.to_string(), text.clone()))
        .collect();
    assert_eq!(violations(&pairs).concat(), "");
}

#[test]
fn half_a_character_does_not_count_as_one() {
    let home = Directory::new();
    let model = Tiny::mute()
        .chain("\"\\ud800")
        .write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let schema = r#"{"type":"string","minLength":2,"maxLength":2}"#;
    // The model would write \ud800, which is the first half of a pair.
    let answer = bridge.connect().generate(&with_schema("a", schema, ""));
    assert_eq!(answer.text, r#""\ud0000""#);
}

#[test]
fn tokens_that_are_no_text_do_not_count_as_text() {
    let home = Directory::new();
    let bridge = carousel(&home, &["-n", "40"]);
    // `<unk>` is written with five letters, and is the first token that this model would take.
    let schema = r#"{"type":"string","minLength":5,"maxLength":5}"#;
    let answer = bridge.connect().generate(&with_schema("a", schema, ""));
    assert_eq!(answer.text.chars().count(), 7, "{}", answer.text);
}

#[test]
fn what_programs_write_for_their_types_is_taken() {
    let home = Directory::new();
    let bridge = carousel(&home, &["-n", "40"]);
    let mut client = bridge.connect();
    for schema in [
        include_str!("schemas/pydantic.json"),
        include_str!("schemas/pydantic-2.5.json"),
        include_str!("schemas/zod-to-json-schema.json"),
        include_str!("schemas/zod-4.json"),
        include_str!("schemas/typebox.json"),
    ] {
        let answer = client.generate(&with_schema("a", schema, ""));
        assert!(answer.text.starts_with('{'), "{schema}: {}", answer.text);
    }
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
        client.expect_refusal(&with_schema("a", schema, ""), &message);
    }
    assert_eq!(
        client.generate(r#"{"prompt":"a","max_tokens":3}"#).text,
        "bcd"
    );
    assert_eq!(bridge.model_process(), child);
}

#[test]
fn a_keyword_that_is_not_on_the_list_is_refused_by_name() {
    let alone = "without a type only $ref, anyOf, allOf, enum, const can stand";
    expect_refusals(&[
        (
            r#"{"allOf":["x"]}"#,
            "#/allOf/0 is a string, where a schema must be an object; {} is any value",
        ),
        (
            r#"{"allOf":[{},{}]}"#,
            "#/allOf takes one schema, not 2: write what they have in common as one",
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
            "'pattern' at # is not supported; beside 'type' string only \
             minLength, maxLength, format can stand",
        ),
        (
            r#"{"type":"array","items":{"type":"integer","multipleOf":5}}"#,
            "'multipleOf' at #/items is not supported; beside 'type' integer only \
             minimum, maximum, exclusiveMinimum, exclusiveMaximum can stand",
        ),
        (
            r#"{"type":"object","properties":{"a/b":{"type":"number","minimum":0}}}"#,
            "'minimum' at #/properties/a~1b is not supported; \
             beside 'type' number only descriptions can stand",
        ),
        (
            r#"{"anyOf":[{"enum":[1],"minimum":2}]}"#,
            "'minimum' at #/anyOf/0 is not supported; beside 'enum' only type can stand",
        ),
        (
            r##"{"$defs":{"a":{}},"$ref":"#/$defs/a","type":"null"}"##,
            "'type' at # is not supported; beside '$ref' only descriptions can stand",
        ),
        (
            r#"{"type":"array","items":{"$defs":{}}}"#,
            "'$defs' at #/items is not supported; it can only stand at the top of a schema",
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
            "#/$ref names '{reference}', which is no definition; \
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
            "the bounds at # allow no number: the least would be 3, the most 2",
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
            "'minItems' at #/items is 5, more than 'maxItems', which is 2",
        ),
        (
            r#"{"type":"string","minLength":5,"maxLength":2}"#,
            "'minLength' at # is 5, more than 'maxLength', which is 2",
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
            "#/anyOf/0 is a string, where a schema must be an object; {} is any value",
        ),
        (
            r#"{"type":"string","enum":["a",1]}"#,
            "#/enum/1 is not of the type string that stands beside it",
        ),
        (
            r#"{"type":"integer","const":1.5}"#,
            "#/const is not of the type integer that stands beside it",
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
            "#/additionalProperties takes only false beside 'properties', not an object",
        ),
        (
            r#"{"type":"array","prefixItems":[{},{}],"maxItems":1}"#,
            "#/prefixItems has 2 items, which are always all there; \
             'minItems' and 'maxItems' must allow that",
        ),
        (
            r#"{"type":"array","items":[{}],"additionalItems":true}"#,
            "#/additionalItems takes only false, and that only beside an array of 'items', \
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
        (
            large,
            &format!(
                "it has {} bytes, and 65536 is the most that is taken",
                large.len()
            ),
        ),
        (
            &many(101),
            "101 properties at # are not in 'required', and 100 is the most that is taken",
        ),
        (
            &definitions,
            "it has 251 definitions, and 250 is the most that is taken",
        ),
    ]);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn the_largest_schemas_are_taken() {
    let home = Directory::new();
    let bridge = carousel(&home, &["-n", "400"]);
    let mut client = bridge.connect();
    let names: Vec<String> = (0..2000).map(|n| format!("\"p{n}\"")).collect();
    let required = format!(
        r#"{{"type":"object","properties":{{{}:{{"type":"null"}}}},"required":[{}]}}"#,
        names.join(r#":{"type":"null"},"#),
        names
            .iter()
            .rev()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(",")
    );
    let optional = format!(
        r#"{{"type":"object","properties":{{{}:{{}}}}}}"#,
        names[..100].join(":{},")
    );
    let values: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
    for schema in [
        required,
        optional,
        format!(r#"{{"enum":[{}]}}"#, values.join(",")),
        r#"{"type":"string","minLength":2000,"maxLength":2000}"#.to_string(),
        r#"{"type":"array","items":{"type":"object"},"minItems":2000}"#.to_string(),
    ] {
        let answer = client.generate(&with_schema("a", &schema, ""));
        assert!(!answer.text.is_empty());
    }
    client.ask(&format!("GENERATE {}", with_schema("a", "7", "")));
    client.expect(&failure(
        "bad_request",
        "Field 'json_schema' takes an object, not 7",
    ));
}
