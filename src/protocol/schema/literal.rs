//! Texts of GBNF: values that are given word for word, ranges of whole numbers, and the rules that
//! every grammar of a schema can use.

use miniserde::json;

use crate::protocol::json::{Kind, Value};

/// The rules for what every JSON value is made of.
///
/// Where JSON allows blanks there can be one, or up to two newlines and an indentation: models
/// write both, and some never stop where there is no limit. Whole numbers have at most 15 digits,
/// so that every reader of JSON holds them exactly, and exponents two, so that none is infinite. No
/// `\u` names half a character of two, of which readers make different things. Days of a date are
/// those that the month has.
pub(super) const FIXED_RULES: &str = r#"space ::= | " " | "\n"{1,2} [ \t]{0,20}
value ::= object | array | string | number | boolean | null
object ::= "{" space (member ("," space member)*)? space "}"
member ::= string ":" space value
array ::= "[" space (value ("," space value)*)? space "]"
string ::= "\"" char* "\""
char ::= [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" unit)
unit ::= [0-9a-cA-CefEF] hex{3} | [dD] [0-7] hex{2}
hex ::= [0-9a-fA-F]
number ::= "-"? whole ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?
whole ::= "0" | [1-9] [0-9]{0,14}
integer ::= "0" | "-"? [1-9] [0-9]{0,14}
boolean ::= "true" | "false"
null ::= "null"
uuid ::= hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}
date ::= [1-9] [0-9]{3} "-" day | leap "-02-29"
day ::= ("0" [13578] | "1" [02]) "-" (to28 | "29" | "3" [01]) | day30 | "02-" to28
day30 ::= ("0" [469] | "11") "-" (to28 | "29" | "30")
to28 ::= "0" [1-9] | "1" [0-9] | "2" [0-8]
leap ::= [1-9] [0-9] ("0" [48] | [2468] [048] | [13579] [26]) | ([2468] [048] | [13579] [26]) "00"
time ::= hour ":" sixty ":" sixty ("." [0-9]{1,6})? ("Z" | [-+] hour ":" sixty)
hour ::= [01] [0-9] | "2" [0-3]
sixty ::= [0-5] [0-9]
"#;

/// A text as a literal of GBNF.
pub(super) fn gbnf(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{text}\"")
}

/// A value as JSON without blanks. Numbers stay as they were written.
pub(super) fn json(value: &Value<'_>) -> String {
    let string = |text: &str| json::to_string(&text.to_string());
    match &value.kind {
        Kind::String(text) => string(text),
        Kind::Array => {
            let items: Vec<String> = value.items.iter().map(json).collect();
            format!("[{}]", items.join(","))
        }
        Kind::Object(_) => {
            let field = |(name, value)| format!("{}:{}", string(name), json(value));
            let fields: Vec<String> = value.fields().map(field).collect();
            format!("{{{}}}", fields.join(","))
        }
        Kind::Null | Kind::Bool(_) | Kind::Number(_) => value.source.to_string(),
    }
}

/// The whole numbers from `least` to `most`, which is not less.
pub(super) fn integers(least: i64, most: i64) -> String {
    let mut choices = Vec::new();
    if least < 0 {
        let near = (-most).max(1).unsigned_abs();
        choices.push(format!("\"-\" ({})", naturals(near, least.unsigned_abs())));
    }
    if most >= 0 {
        choices.push(naturals(least.max(0).unsigned_abs(), most.unsigned_abs()));
    }
    choices.join(" | ")
}

/// By the number of digits: among numbers of as many, text and value have the same order.
fn naturals(least: u64, most: u64) -> String {
    let mut choices = Vec::new();
    let mut low = least;
    loop {
        let digits = low.max(1).ilog10();
        let high = most.min(10u64.pow(digits + 1) - 1);
        choices.push(digits_between(&low.to_string(), &high.to_string()));
        if high == most {
            return choices.join(" | ");
        }
        low = high + 1;
    }
}

/// The texts of digits from `low` to `high`, which have the same length.
fn digits_between(low: &str, high: &str) -> String {
    let (Some(first), Some(last)) = (low.chars().next(), high.chars().next()) else {
        return String::new();
    };
    let (low, high) = (&low[1..], &high[1..]);
    if first == last {
        return format!("\"{first}\" {}", digits_between(low, high));
    }
    let (zeros, nines) = ("0".repeat(low.len()), "9".repeat(low.len()));
    let mut choices = Vec::new();
    let mut from = first;
    let mut to = last;
    if low != zeros {
        choices.push(format!("\"{first}\" {}", digits_between(low, &nines)));
        from = char::from(first as u8 + 1);
    }
    if high != nines {
        to = char::from(last as u8 - 1);
    }
    if from <= to {
        choices.push(format!("[{from}-{to}] {}", any_digits(low.len())));
    }
    if high != nines {
        choices.push(format!("\"{last}\" {}", digits_between(&zeros, high)));
    }
    format!("({})", choices.join(" | "))
}

fn any_digits(count: usize) -> String {
    match count {
        0 => String::new(),
        count => format!("[0-9]{{{count}}}"),
    }
}
