use super::{CHOICES_LIMIT, DEFINITIONS_LIMIT, FIXED_RULES, LARGEST, grammar};
use crate::protocol::json::parse;

/// The rules that a schema adds to those of every schema, or why there are none.
fn rules(schema: &str) -> Result<String, String> {
    let value = parse(schema).unwrap_or_else(|reason| panic!("{schema}: {reason}"));
    let grammar = grammar(&value)?;
    let own = grammar.strip_suffix(FIXED_RULES);
    Ok(own.expect("the fixed rules come last").to_string())
}

#[test]
fn each_shape_has_its_rules() {
    for (schema, expected) in [
        ("{}", "root ::= value\n"),
        (r#"{"title":"a","default":[{}]}"#, "root ::= value\n"),
        (
            r#"{"type":["string","null"]}"#,
            "root ::= rule0\nrule0 ::= string | null\n",
        ),
        (
            r#"{"type":"string","minLength":1,"maxLength":3}"#,
            r#"root ::= rule0
rule0 ::= "\"" char{1,3} "\""
"#,
        ),
        (
            r#"{"type":"string","minLength":2000}"#,
            r#"root ::= rule0
rule0 ::= "\"" char{2000,} "\""
"#,
        ),
        (
            r#"{"type":"string","format":"date"}"#,
            r#"root ::= rule0
rule0 ::= "\"" date "\""
"#,
        ),
        (
            r#"{"type":"array","items":{"type":"null"},"minItems":1}"#,
            r#"root ::= rule2
rule0 ::= null
rule1 ::= "," space rule0
rule2 ::= "[" space rule0 rule1* space "]"
"#,
        ),
        (
            r#"{"type":"object","properties":{"a":{"type":"null"},"b":{}},"required":["a"]}"#,
            r#"root ::= rule3
rule0 ::= null
rule1 ::= "\"a\":" space rule0
rule2 ::= "\"b\":" space value
rule3 ::= "{" space rule1 ("," space rule2)? space "}"
"#,
        ),
        (
            r#"{"type":"object","properties":{"a":{"type":"null"},"b":{}},"required":["b"]}"#,
            r#"root ::= rule4
rule0 ::= null
rule1 ::= "\"a\":" space rule0
rule2 ::= "\"b\":" space value
rule3 ::= "," space rule2
rule4 ::= "{" space (rule1 rule3 | rule2) space "}"
"#,
        ),
        (
            r#"{"anyOf":[{"type":"null"},{"type":"boolean"},{"allOf":[{"type":"null"}]}]}"#,
            "root ::= rule2\nrule0 ::= null\nrule1 ::= boolean\nrule2 ::= rule0 | rule1 | rule0\n",
        ),
        (
            r##"{"$ref":"#/$defs/a~1b","$defs":{"a/b":{"type":"null"}}}"##,
            "root ::= definition0\nrule0 ::= null\ndefinition0 ::= rule0\n",
        ),
        (
            r##"{"type":"array","items":{"$ref":"#"}}"##,
            r#"root ::= rule1
rule0 ::= "," space root
rule1 ::= "[" space (root rule0*)? space "]"
"#,
        ),
    ] {
        assert_eq!(rules(schema).as_deref(), Ok(expected), "{schema}");
    }
}

#[test]
fn values_are_given_word_for_word() {
    for (schema, expected) in [
        (
            r#"{"const":"a\"\\\n\u00e9"}"#,
            r#"rule0 ::= "\"a\\\"\\\\\\né\""
"#,
        ),
        (
            r#"{"const":{"a":[1.50,null,true],"b":{}}}"#,
            r#"rule0 ::= "{\"a\":[1.50,null,true],\"b\":{}}"
"#,
        ),
        // What several begin with is written once, and what comes twice is there once.
        (
            r#"{"enum":["ab","ac","b","ab"]}"#,
            r#"rule0 ::= "b\"" | "c\""
rule1 ::= "a" rule0 | "b\""
rule2 ::= "\"" rule1
"#,
        ),
        (
            r#"{"enum":[1,10,"1",null]}"#,
            r#"rule0 ::= "" | "0"
rule1 ::= "\"1\"" | "1" rule0 | "null"
"#,
        ),
    ] {
        let rules = rules(schema).unwrap_or_else(|reason| panic!("{schema}: {reason}"));
        let (_, rules) = rules.split_once('\n').expect("the root has a line");
        assert_eq!(rules, expected, "{schema}");
    }
}

#[test]
fn ranges_of_whole_numbers_are_exact() {
    for (bounds, expected) in [
        (r#""minimum":5,"maximum":5"#, r#""5" "#),
        (
            r#""minimum":-3,"maximum":12"#,
            r#""-" (([1-3] )) | ([0-9] ) | "1" ([0-2] )"#,
        ),
        (
            r#""minimum":95,"exclusiveMaximum":106"#,
            r#""9" ([5-9] ) | "1" "0" ([0-5] )"#,
        ),
        (r#""minimum":-1,"maximum":0"#, r#""-" ("1" ) | "0" "#),
        (r#""exclusiveMinimum":0,"maximum":1"#, r#""1" "#),
        (
            r#""minimum":9007199254740990,"maximum":9007199254740991"#,
            r#""9" "0" "0" "7" "1" "9" "9" "2" "5" "4" "7" "4" "0" "9" "9" ([0-1] )"#,
        ),
    ] {
        let rules = rules(&format!(r#"{{"type":"integer",{bounds}}}"#));
        let expected = format!("root ::= rule0\nrule0 ::= {expected}\n");
        assert_eq!(rules, Ok(expected), "{bounds}");
    }
}

#[test]
fn what_is_at_a_limit_is_taken_and_one_more_is_not() {
    let schemas = |count: usize| vec!["{}"; count].join(",");
    let any_of = |count: usize| format!(r#"{{"anyOf":[{}]}}"#, schemas(count));
    let definitions = |count: usize| {
        let all: Vec<String> = (0..count).map(|at| format!(r#""{at}":{{}}"#)).collect();
        format!(r#"{{"$defs":{{{}}}}}"#, all.join(","))
    };
    let long = |length: usize| {
        let blanks = " ".repeat(length - r#"{"title":""}"#.len());
        format!(r#"{{"title":"{blanks}"}}"#)
    };
    let keyword = |keyword: &str, kind: &str, value: &str| {
        format!(r#"{{"type":"{kind}","{keyword}":{value}}}"#)
    };
    let most = "9007199254740991";
    let more = "9007199254740992";
    // What the reason has to name: the value, and the limit.
    for (taken, refused, value, limit) in [
        (long(LARGEST), long(LARGEST + 1), "65537", "65536"),
        (
            any_of(CHOICES_LIMIT),
            any_of(CHOICES_LIMIT + 1),
            "#/anyOf has 101",
            "100",
        ),
        (
            definitions(DEFINITIONS_LIMIT),
            definitions(DEFINITIONS_LIMIT + 1),
            "251 definitions",
            "250",
        ),
        (
            keyword("maxLength", "string", "2000"),
            keyword("maxLength", "string", "2001"),
            "not 2001",
            "#/maxLength takes a whole number from 0 to 2000",
        ),
        (
            keyword("minItems", "array", "0"),
            keyword("minItems", "array", "-1"),
            "not -1",
            "#/minItems takes a whole number from 0 to 2000",
        ),
        (
            keyword("maximum", "integer", most),
            keyword("maximum", "integer", more),
            more,
            most,
        ),
        (
            keyword("minimum", "integer", &format!("-{most}")),
            keyword("minimum", "integer", &format!("-{more}")),
            &format!("not -{more}"),
            &format!("-{most}"),
        ),
    ] {
        assert_eq!(rules(&taken).err(), None, "up to {limit}");
        let reason = rules(&refused).expect_err(value);
        assert!(
            reason.contains(value) && reason.contains(limit),
            "{value}: {reason}"
        );
    }
}
