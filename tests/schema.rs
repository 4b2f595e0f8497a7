//! JSON schemas: answers that are JSON, and follow them.

use miniserde::json::{self, Value};

use crate::harness::schema::violation;
use crate::harness::{Bridge, Client, Directory, Tiny, quoted, smollm2_or_skip};

const PERSON: &str = r#"{"type":"object","properties":{
    "name":{"type":"string","minLength":2,"maxLength":16},
    "age":{"type":"integer","minimum":18,"maximum":99},
    "married":{"type":"boolean"}},
    "required":["name","age","married"],"additionalProperties":false}"#;

const NUMBERS: &str = r#"{"type":"array","minItems":2,"maxItems":4,
    "items":{"type":"integer","minimum":-20,"maximum":1500}}"#;

const COLOUR: &str = r#"{"enum":["red","green","blue",7,null]}"#;

const WORD: &str = r#"{"type":"string","minLength":5,"maxLength":8}"#;

const LINE: &str = r##"{"$defs":{
    "point":{"type":"object","properties":{
        "x":{"type":"integer","minimum":0,"maximum":9},
        "y":{"type":"integer","minimum":0,"maximum":9}},
        "required":["x","y"],"additionalProperties":false},
    "line":{"type":"object","properties":{
        "from":{"$ref":"#/$defs/point"},"to":{"$ref":"#/$defs/point"},
        "kind":{"enum":["solid","dotted"]}},
        "required":["from","to","kind"],"additionalProperties":false}},
    "type":"array","minItems":1,"maxItems":2,"items":{"$ref":"#/$defs/line"}}"##;

/// The object of a request with this schema.
fn with_schema(prompt: &str, schema: &str, fields: &str) -> String {
    let prompt = quoted(prompt);
    format!(r#"{{"prompt":{prompt},"json_schema":{schema}{fields}}}"#)
}

fn parse(text: &str) -> Value {
    json::from_str(text).unwrap_or_else(|_| panic!("{text:?} is not JSON"))
}

/// Has SmolLM2 answer by chance, and holds each answer against the schema.
fn check_real(prompt: &str, schema: &str) {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client: Client = bridge.connect();
    let rules = parse(schema);
    for seed in 1..=4 {
        let fields = format!(r#","temperature":0.8,"seed":{seed},"max_tokens":160"#);
        let answer = client.generate(&with_schema(prompt, schema, &fields));
        assert_eq!(answer.finish_reason, "stop", "{answer:?}");
        let broken = violation(&parse(&answer.text), &rules, &rules);
        assert_eq!(broken, None, "seed {seed}: {}", answer.text);
    }
}

#[test]
fn a_real_model_keeps_to_the_schema_of_an_object() {
    check_real("A person as JSON: ", PERSON);
}

#[test]
fn a_real_model_keeps_to_the_schema_of_an_array() {
    check_real("Some temperatures as a JSON array: ", NUMBERS);
}

#[test]
fn a_real_model_keeps_to_an_enumeration() {
    check_real("The colour of the sky is ", COLOUR);
}

#[test]
fn a_real_model_keeps_to_the_length_of_a_string() {
    check_real("A word: ", WORD);
}

#[test]
fn a_real_model_keeps_to_definitions_within_definitions() {
    check_real("Lines as JSON: ", LINE);
}

#[test]
fn the_validator_finds_what_is_wrong() {
    // Lest the tests above pass whatever the model writes.
    for (schema, right, wrong) in [
        (
            PERSON,
            r#"{"name":"Ann","age":18,"married":true}"#,
            &[
                r#"{"name":"A","age":18,"married":true}"#,
                r#"{"name":"Ann","age":17,"married":true}"#,
                r#"{"name":"Ann","age":18.5,"married":true}"#,
                r#"{"name":"Ann","age":18}"#,
                r#"{"name":"Ann","age":18,"married":true,"x":1}"#,
                "[]",
            ][..],
        ),
        (
            NUMBERS,
            "[-20,1500]",
            &["[1]", "[1,2,3,4,5]", "[-21,1]", "[1,1501]"],
        ),
        (COLOUR, "null", &["8", "\"pink\"", "true"]),
        (
            WORD,
            "\"\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\"",
            &["\"four\"", "\"ninechars\""],
        ),
        (
            LINE,
            r#"[{"from":{"x":0,"y":9},"to":{"x":1,"y":1},"kind":"solid"}]"#,
            &[
                "[]",
                r#"[{"from":{"x":0,"y":10},"to":{"x":1,"y":1},"kind":"solid"}]"#,
                r#"[{"from":{"x":0,"y":9},"kind":"solid"}]"#,
            ],
        ),
    ] {
        let rules = parse(schema);
        assert_eq!(violation(&parse(right), &rules, &rules), None);
        for wrong in wrong {
            assert!(
                violation(&parse(wrong), &rules, &rules).is_some(),
                "{wrong}"
            );
        }
    }
}

/// A tiny model that counts on: after each letter comes the next.
fn tiny(home: &Directory) -> Bridge {
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    Bridge::with_model(home, &model, &["-n", "40"])
}

#[test]
fn a_schema_that_leaves_no_choice_is_followed_to_the_letter() {
    let home = Directory::new();
    let bridge = tiny(&home);
    let mut client = bridge.connect();
    for (schema, text) in [
        (r#"{"const":"bcd"}"#, r#""bcd""#),
        (r#"{"const":{"a":[1,true,null]}}"#, r#"{"a":[1,true,null]}"#),
        (r#"{"enum":["\u00e9\"\\"]}"#, "\"\u{e9}\\\"\\\\\""),
        (r#"{"type":"null"}"#, "null"),
        (r#"{"type":"integer","minimum":7,"maximum":7}"#, "7"),
    ] {
        let answer = client.generate(&with_schema("a", schema, r#","stream":true"#));
        assert_eq!(answer.text, text, "{schema}");
        assert_eq!(answer.pieces.concat(), text, "{schema}");
        assert_eq!(answer.finish_reason, "stop", "{schema}");
    }
}

#[test]
fn tokens_that_are_no_text_do_not_count_as_text() {
    let home = Directory::new();
    let bridge = tiny(&home);
    // `<unk>` is written with five letters, and is the first token that this model would take.
    let schema = r#"{"type":"string","minLength":5,"maxLength":5}"#;
    let answer = bridge.connect().generate(&with_schema("a", schema, ""));
    let rules = parse(schema);
    assert_eq!(violation(&parse(&answer.text), &rules, &rules), None);
}

/// Expects that each of these schemas is refused, and that the model process outlives them.
fn expect_refusals(schemas: &[&str]) {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_little_memory(&home, &model);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    for schema in schemas {
        client.ask(&format!("GENERATE {}", with_schema("a", schema, "")));
        let message = client.expect_error("bad_request");
        let start = "Field 'json_schema' cannot be used: ";
        assert!(message.starts_with(start), "{schema}: {message}");
        assert!(message.len() > start.len() + 5, "{schema}: {message}");
        assert!(!message.contains("bad_alloc"), "{schema}: {message}");
    }
    assert_eq!(
        client.generate(r#"{"prompt":"a","max_tokens":3}"#).text,
        "bcd"
    );
    assert_eq!(bridge.model_process(), child);
}

#[test]
fn a_schema_that_cannot_be_used_is_refused() {
    expect_refusals(&[
        r#"{"type":"colour"}"#,
        r#"{"type":5}"#,
        r##"{"$ref":"#/$defs/none"}"##,
        r#"{"$ref":"https://example.com/schema.json"}"#,
        r##"{"$ref":"#"}"##,
        r#"{"properties":5}"#,
        r#"{"enum":[]}"#,
        r#"{"anyOf":[]}"#,
        r#"{"type":"string","minLength":"x"}"#,
        r#"{"type":"string","maxLength":-1}"#,
    ]);
}

#[test]
fn bounds_that_exclude_each_other_are_refused() {
    // llama.cpp itself would try for ever, until there is no memory left.
    expect_refusals(&[
        r#"{"type":"array","minItems":5,"maxItems":2}"#,
        r#"{"type":"string","minLength":5,"maxLength":2}"#,
        r#"{"type":"object","properties":{"a":{"type":"array","minItems":3,"maxItems":1}}}"#,
    ]);
}

#[test]
fn a_keyword_that_cannot_be_kept_is_refused() {
    // llama.cpp passes these over, and what comes out need not follow the schema.
    expect_refusals(&[
        r#"{"type":"string","pattern":"(?!a)b"}"#,
        r#"{"not":{"type":"string"}}"#,
        r#"{"type":"integer","multipleOf":5}"#,
        r#"{"type":"array","items":{"type":"integer"},"uniqueItems":true}"#,
        r#"{"type":"number","minimum":0,"maximum":1}"#,
    ]);
}
