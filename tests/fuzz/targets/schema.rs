//! Schemas: one that is taken makes a grammar that our reader of GBNF takes, which is within its
//! limits, and whose answers are JSON.

use llama_cpp_bridge::protocol::json::{DEPTH_LIMIT, parse};
use llama_cpp_bridge::protocol::schema::grammar;
use llama_cpp_bridge::shared::{gbnf, grammar_check};

use super::Draw;
use super::answers::Grammar;

/// What the reader of grammars takes.
const LONGEST_GRAMMAR: usize = 1 << 20;

/// The reasons to refuse a grammar that a schema can come to by its size: the model process finds
/// them, and says so.
const BY_SIZE: [&str; 3] = [
    "more than 500000 elements",
    "can begin in more than 10000 ways",
    "can begin in too many ways",
];

/// The first byte chooses: the rest is a schema, or what one is drawn from.
pub(crate) fn check(input: &[u8]) {
    let mut draw = Draw::new(input);
    let drawn = draw.below(2) > 0;
    let mut choices = Draw::new(input);
    let text = if drawn {
        schema(&mut draw, 4)
    } else {
        String::from_utf8_lossy(draw.rest()).into_owned()
    };
    let Ok(value) = parse(&text) else {
        assert!(!drawn, "not JSON: {text}");
        return;
    };
    let made = match grammar(&value) {
        Ok(made) => made,
        Err(reason) => return assert!(!reason.is_empty() && reason.len() < 2 * text.len() + 500),
    };
    assert!(made.len() <= LONGEST_GRAMMAR, "{} bytes", made.len());
    if let Err(reason) = gbnf::parse(&made, "root") {
        panic!("{reason}: {text}");
    }
    if let Err(reason) = grammar_check::check(&made, "root") {
        assert!(
            BY_SIZE.iter().any(|known| reason.contains(known)),
            "{reason}: {text}"
        );
    }
    let answers = Grammar::read(&made);
    for _ in 0..4 {
        let Some(answer) = answers.draw(&mut choices) else {
            continue;
        };
        // One of a schema that refers to itself may be nested deeper than ours are read.
        if let Err(reason) = parse(&answer) {
            let deep = format!("at most {DEPTH_LIMIT} levels");
            assert!(reason.contains(&deep), "{reason}: {answer} for {text}");
        }
    }
}

/// A schema of what the bridge takes, and of some that it does not.
fn schema(draw: &mut Draw<'_>, depth: usize) -> String {
    if depth == 0 || draw.is_empty() {
        return r#"{"type":"null"}"#.to_string();
    }
    let inner = |draw: &mut Draw<'_>| schema(draw, depth - 1);
    match draw.below(14) {
        0 => "{}".to_string(),
        1 => format!(
            r#"{{"type":"{}"}}"#,
            draw.pick(&["string", "number", "boolean", "integer"])
        ),
        2 => integer(draw),
        3 => format!(
            r#"{{"type":"string","minLength":{},"maxLength":{}}}"#,
            draw.pick(&[0, 1, 7, 2000, 2001]),
            draw.pick(&[0, 1, 7, 2000])
        ),
        4 => format!(
            r#"{{"type":"string","format":"{}"}}"#,
            draw.pick(&["date", "time", "date-time", "uuid", "email"])
        ),
        5 => format!(r#"{{"enum":[{}]}}"#, list(draw, literal)),
        6 => format!(r#"{{"const":{}}}"#, literal(draw)),
        7 => format!(r#"{{"anyOf":[{}]}}"#, list(draw, inner)),
        8 => format!(
            r#"{{"type":"array","items":{},"minItems":{}}}"#,
            inner(draw),
            draw.pick(&[0, 1, 2, 2000])
        ),
        9 => format!(
            r#"{{"type":"array","items":{},"maxItems":{}}}"#,
            inner(draw),
            draw.pick(&[0, 1, 2, 2000])
        ),
        10 => format!(
            r#"{{"type":"array","prefixItems":[{}]}}"#,
            list(draw, inner)
        ),
        11 => format!(
            r#"{{"type":"object","additionalProperties":{}}}"#,
            inner(draw)
        ),
        12 => object(draw, depth),
        // Only at the top a definition can be given.
        _ => format!(
            r##"{{"$defs":{{"a":{},"b":{}}},"{}":[{{"$ref":"#/$defs/a"}},{{"$ref":"#"}}]}}"##,
            inner(draw),
            draw.pick(&[
                r##"{"$ref":"#/$defs/a"}"##,
                r##"{"$ref":"#/$defs/b"}"##,
                "{}"
            ]),
            draw.pick(&["anyOf", "allOf", "type\":\"array\",\"prefixItems"])
        ),
    }
}

fn object(draw: &mut Draw<'_>, depth: usize) -> String {
    let names = ["a", "b", "", "x/y~z", "\u{e9}\\\"", "string"];
    let mut properties = Vec::new();
    let mut required = Vec::new();
    for name in &names[..draw.below(names.len())] {
        properties.push(format!(r#""{name}":{}"#, schema(draw, depth - 1)));
        if draw.below(2) > 0 {
            required.push(format!(r#""{name}""#));
        }
    }
    format!(
        r#"{{"type":"object","properties":{{{}}},"required":[{}]}}"#,
        properties.join(","),
        required.join(",")
    )
}

fn integer(draw: &mut Draw<'_>) -> String {
    // Numbers of 53 bits, or of about as many digits as a byte says.
    let number = |draw: &mut Draw<'_>| {
        let digits = draw.below(17) as u32;
        let magnitude = (draw.number() % 10u64.pow(digits)) as i64;
        if draw.below(2) > 0 {
            -magnitude
        } else {
            magnitude
        }
    };
    let (least, most) = (number(draw), number(draw));
    match draw.below(4) {
        0 => format!(r#"{{"type":"integer","minimum":{least}}}"#),
        1 => format!(r#"{{"type":"integer","exclusiveMaximum":{most}}}"#),
        _ => {
            let (least, most) = (least.min(most), least.max(most));
            format!(r#"{{"type":"integer","minimum":{least},"maximum":{most}}}"#)
        }
    }
}

fn literal(draw: &mut Draw<'_>) -> String {
    let values = [
        "null",
        "true",
        "-1.5e3",
        "12",
        r#""""#,
        r#""a b""#,
        r#""a\"\\\u0001é""#,
        r#""a]-^[""#,
        r#"[1,[]]"#,
        r#"{"a":{}}"#,
    ];
    draw.pick(&values).to_string()
}

fn list(draw: &mut Draw<'_>, item: impl Fn(&mut Draw<'_>) -> String) -> String {
    let count = 1 + draw.below(4);
    (0..count).map(|_| item(draw)).collect::<Vec<_>>().join(",")
}
