//! JSON schemas: answers that are JSON, and follow them.

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
fn a_schema_can_contain_itself_where_another_of_its_types_ends() {
    let home = Directory::new();
    let bridge = carousel(&home, &["-n", "40"]);
    let mut client = bridge.connect();
    for schema in [
        r##"{"type":["object","null"],"properties":{"next":{"$ref":"#"}},"required":["next"]}"##,
        r##"{"type":["array","null"],"items":{"$ref":"#"},"minItems":1}"##,
        r##"{"type":["null","array"],"prefixItems":[{"$ref":"#"}]}"##,
        r##"{"type":["array","object"],"properties":{"a":{"$ref":"#"}},"required":["a"]}"##,
    ] {
        let answer = client.generate(&with_schema("a", schema, ""));
        assert!(!answer.text.is_empty(), "{schema}");
    }
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
fn bytes_that_are_no_character_do_not_count_as_one() {
    let home = Directory::new();
    let schema = r#"{"type":"string","minLength":1,"maxLength":1}"#;
    // What the model likes best is U+140000, which is none, U+0080 and a slash in a byte too many,
    // and half a pair; what it likes next is one.
    for (name, best, next) in [
        ("large", "F5808080", "61"),
        ("padded", "E08280", "E0A480"),
        ("slash", "C0AF", "2F"),
        ("half", "EDA080", "ED9FBF"),
    ] {
        let bytes = |hex: &str| -> Vec<u8> {
            let digits = (0..hex.len()).step_by(2).map(|at| &hex[at..at + 2]);
            let byte = |digits| u8::from_str_radix(digits, 16).expect("hexadecimal");
            [b"\"", &digits.map(byte).collect::<Vec<u8>>()[..], b"\""].concat()
        };
        let chain = |model: Tiny, bytes: &[u8], weight| {
            let pairs = bytes.windows(2);
            pairs.fold(model, |model, pair| model.weigh(pair[0], pair[1], weight))
        };
        let model = chain(Tiny::mute(), &bytes(next), 1.0);
        let model = chain(model, &bytes(best), 2.0).write(home.join(name));
        let bridge = Bridge::with_model(&home, &model, &[]);
        let answer = bridge.connect().generate(&with_schema("a", schema, ""));
        assert_eq!(answer.text.as_bytes(), bytes(next), "{name}");
    }
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
