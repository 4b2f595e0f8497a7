use super::{DEPTH_LIMIT, Kind, Value, parse};

/// A value in a form that shows what was read.
fn shown(value: &Value<'_>) -> String {
    match &value.kind {
        Kind::Null => "null".to_string(),
        Kind::Bool(truth) => truth.to_string(),
        Kind::Number(number) => format!("{number:e}"),
        Kind::String(text) => format!("{text:?}"),
        Kind::Array => {
            let items: Vec<String> = value.items.iter().map(shown).collect();
            format!("[{}]", items.join(" "))
        }
        Kind::Object(_) => {
            let fields = value.fields();
            let fields: Vec<String> = fields
                .map(|(key, value)| format!("{key:?}={}", shown(value)))
                .collect();
            format!("{{{}}}", fields.join(" "))
        }
    }
}

#[test]
fn values_of_all_kinds_are_read() {
    for (text, expected) in [
        ("null", "null"),
        ("true", "true"),
        (" \t\r\nfalse \t\r\n", "false"),
        ("[]", "[]"),
        ("[ ]", "[]"),
        ("{ }", "{}"),
        ("[1 , [2] ,{}]", "[1e0 [2e0] {}]"),
        (r#"{"a" : 1 ,"":[null]}"#, r#"{"a"=1e0 ""=[null]}"#),
        // Both are kept: what reads a request refuses the second.
        (r#"{"a":1,"\u0061":2}"#, r#"{"a"=1e0 "a"=2e0}"#),
    ] {
        let value = parse(text).unwrap_or_else(|reason| panic!("{text}: {reason}"));
        assert_eq!(shown(&value), expected, "{text}");
    }
}

#[test]
fn numbers_are_the_nearest_double() {
    for (text, expected) in [
        ("0", 0.0),
        ("-0", 0.0),
        ("-1.5e-3", -0.0015),
        ("1E+2", 100.0),
        ("1e0", 1.0),
        ("9007199254740991", 9007199254740991.0),
        ("9007199254740993", 9007199254740992.0),
        ("1.7976931348623157e308", f64::MAX),
        ("1e309", f64::INFINITY),
        ("-1e309", f64::NEG_INFINITY),
        ("5e-324", 5e-324),
        ("1e-400", 0.0),
        ("0.1000000000000000055511151231257827", 0.1),
    ] {
        let value = parse(text).map(|value| value.kind);
        assert_eq!(value, Ok(Kind::Number(expected)), "{text}");
    }
}

#[test]
fn escapes_are_undone() {
    for (text, expected) in [
        (r#""""#, ""),
        (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
        (r#""\u0000\u001f\u00E9\uffff""#, "\0\u{1f}\u{e9}\u{ffff}"),
        (r#""\ud7ff\ue000""#, "\u{d7ff}\u{e000}"),
        (r#""\ud800\udc00\uDBFF\uDFFF""#, "\u{10000}\u{10ffff}"),
        ("\"\u{7f}\u{2028}\u{1f600}\"", "\u{7f}\u{2028}\u{1f600}"),
    ] {
        let value = parse(text).map(|value| value.kind);
        assert_eq!(value, Ok(Kind::String(expected.to_string())), "{text}");
    }
}

#[test]
fn a_value_knows_its_own_text() {
    let value = parse(r#" {"a": [ 2.50, "\u0061" ] } "#).expect("it is JSON");
    assert_eq!(value.source, r#"{"a": [ 2.50, "\u0061" ] }"#);
    assert_eq!(value.items[0].source, r#"[ 2.50, "\u0061" ]"#);
    assert_eq!(value.items[0].items[0].source, "2.50");
    assert_eq!(value.items[0].items[1].source, r#""\u0061""#);
}

#[test]
fn what_is_not_json_is_refused_with_the_byte_where_it_stops() {
    let string = "the rest of a string, control characters escaped";
    let escape = "one of \" \\ / b f n r t u after '\\'";
    let pair = "both halves of a surrogate pair";
    for (text, at, expected, found) in [
        ("", 0, "a value", "the end"),
        ("  ", 2, "a value", "the end"),
        ("hello", 0, "a value", "'h'"),
        ("nul", 0, "a value", "'n'"),
        ("NaN", 0, "a value", "'N'"),
        ("Infinity", 0, "a value", "'I'"),
        ("\u{feff}1", 0, "a value", "'\\u{feff}'"),
        ("1 2", 2, "nothing after the value", "'2'"),
        ("nullx", 4, "nothing after the value", "'x'"),
        ("{", 1, "the name of a field", "the end"),
        ("{'a':1}", 1, "the name of a field", r"'\''"),
        (r#"{"a":1,}"#, 7, "the name of a field", "'}'"),
        (r#"{"a" 1}"#, 5, "':'", "'1'"),
        (r#"{"a":}"#, 5, "a value", "'}'"),
        (r#"{"a":1;}"#, 6, "',' or '}'", "';'"),
        ("[1,]", 3, "a value", "']'"),
        ("[1 2]", 3, "',' or ']'", "'2'"),
        ("[1}", 2, "',' or ']'", "'}'"),
        ("+5", 0, "a value", "'+'"),
        (".5", 0, "a value", "'.'"),
        ("-", 1, "a digit", "the end"),
        ("-a", 1, "a digit", "'a'"),
        ("05", 1, "nothing after the value", "'5'"),
        ("5.", 2, "a digit", "the end"),
        ("5.e1", 2, "a digit", "'e'"),
        ("{\"a\":1e}", 7, "a digit", "'}'"),
        ("1e+", 3, "a digit", "the end"),
        ("0x1", 1, "nothing after the value", "'x'"),
        ("\"a", 2, string, "the end"),
        ("\"\n\"", 1, string, r"'\n'"),
        ("\"\u{0}\"", 1, string, r"'\0'"),
        ("\"\u{1f}\"", 1, string, r"'\u{1f}'"),
        (r#""\x""#, 2, escape, "'x'"),
        (r#""\"#, 2, escape, "the end"),
        (r#""\u12g4""#, 3, "four hexadecimal digits", "'1'"),
        (r#""\u+123""#, 3, "four hexadecimal digits", "'+'"),
        (r#""\u12"#, 3, "four hexadecimal digits", "'1'"),
        ("\"\\u12\u{e9}4\"", 3, "four hexadecimal digits", "'1'"),
        (r#""\ud83d""#, 2, pair, "'u'"),
        (r#""\ud83d\u0041""#, 2, pair, "'u'"),
        (r#""\ude00\ud83d""#, 2, pair, "'u'"),
        (r#""\ud83d\n""#, 2, pair, "'u'"),
        ("\"\u{e9}\u{1f600}\",", 8, "nothing after the value", "','"),
    ] {
        let reason = format!("Not valid JSON at byte {at}: expected {expected}, found {found}");
        assert_eq!(parse(text).err(), Some(reason), "{text:?}");
    }
}

#[test]
fn nothing_that_is_cut_off_is_json() {
    let text = r#"{"a":[1,-2.5e+3,"\u00e9\ud83d\ude00é\"",{"b":null}],"c":{"d":[true,false]}}"#;
    assert!(parse(text).is_ok());
    for (at, _) in text.char_indices() {
        assert!(parse(&text[..at]).is_err(), "{}", &text[..at]);
    }
}

#[test]
fn values_can_be_inside_each_other_up_to_a_limit() {
    let arrays = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    assert!(parse(&arrays(DEPTH_LIMIT + 1)).is_ok());
    assert!(parse(&objects(DEPTH_LIMIT)).is_ok());
    for (text, at) in [
        (arrays(DEPTH_LIMIT + 2), 65),
        (objects(DEPTH_LIMIT + 1), 65 * 5),
        ("[".repeat(100_000), 65),
    ] {
        let reason = parse(&text).expect_err("it is too deep");
        let start = format!("Not valid JSON at byte {at}: expected at most 64 levels");
        assert!(reason.starts_with(&start), "{reason}");
    }
}
