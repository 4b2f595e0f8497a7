//! Answers under JSON schemas: Python's jsonschema judges them, which knows nothing of the bridge.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;

use super::quoted;

/// Reads pairs of a schema and a text, one a line, and writes for each what is wrong, or nothing.
const JUDGE: &str = r#"
import json, re, sys
from datetime import datetime
from jsonschema import Draft202012Validator, FormatChecker

# Debian 12 has a version without the other two.
checker = FormatChecker(["date", "uuid"])

def moment(text):
    if not isinstance(text, str):
        return True
    match = re.fullmatch(r"(.*T\d\d:\d\d:\d\d)(\.\d+)?(Z|[-+]\d\d:\d\d)", text)
    datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00"))
    return True

checker.checks("date-time", (ValueError, TypeError))(moment)
checker.checks("time", (ValueError, TypeError))(
    lambda text: not isinstance(text, str) or moment("2000-01-01T" + text)
)

def refuse(constant):
    raise ValueError(constant + " is not JSON")

for line in sys.stdin:
    schema, text = json.loads(line)
    try:
        Draft202012Validator.check_schema(schema)
        value = json.loads(text, parse_constant=refuse)
        errors = Draft202012Validator(schema, format_checker=checker).iter_errors(value)
        print(json.dumps("; ".join(error.message for error in errors)))
    except Exception as error:
        print(json.dumps(repr(error)))
"#;

/// Of each pair of a schema and a text, what is wrong with the text; nothing if it follows.
///
/// # Panics
/// Without Python's jsonschema.
pub(crate) fn violations(pairs: &[(String, String)]) -> Vec<String> {
    let mut python = Command::new("python3")
        .args(["-c", JUDGE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 can be started");
    let lines: String = pairs
        .iter()
        .map(|(schema, text)| format!("[{},{}]\n", schema.replace('\n', " "), quoted(text)))
        .collect();
    let mut input = python.stdin.take().expect("it is a pipe");
    let writer = thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = python.wait_with_output().expect("python3 ends");
    let _ = writer.join();
    assert!(
        output.status.success(),
        "Python's jsonschema is missing, or too old"
    );
    let output = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let found: Vec<String> = output
        .lines()
        .map(|line| miniserde::json::from_str(line).expect("each line is a string"))
        .collect();
    assert_eq!(found.len(), pairs.len());
    found
}

/// Makes schemas by chance, of all that the bridge takes, whose values are mostly short.
pub(crate) struct Schemas(pub(crate) u64);

impl Schemas {
    /// A whole schema, with the definitions that its references name.
    pub(crate) fn whole(&mut self) -> String {
        let leaf = self.leaf();
        let depth = self.draw(3);
        let schema = self.schema(depth);
        let rest = schema.strip_prefix('{').expect("a schema is an object");
        let comma = if rest == "}" { "" } else { "," };
        format!(
            r##"{{"$defs":{{"leaf":{leaf},"chain":{{"type":"object","properties":{{
            "more":{{"anyOf":[{{"type":"null"}},{{"$ref":"#/$defs/chain"}}]}}}},
            "required":["more"]}}}}{comma}{rest}"##
        )
    }

    /// A number below `bound`.
    fn draw(&mut self, bound: u64) -> u64 {
        // Knuth's multiplier; the high bits are the good ones.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.draw(choices.len() as u64) as usize]
    }

    fn schema(&mut self, depth: u64) -> String {
        if depth == 0 {
            return self.leaf();
        }
        match self.draw(9) {
            0 | 1 => self.leaf(),
            2 => self.array(depth),
            3 => {
                let (a, b) = (self.schema(depth - 1), self.schema(depth - 1));
                let counts = self.pick(&["", r#","items":false"#, r#","minItems":2,"maxItems":2"#]);
                format!(r#"{{"type":"array","prefixItems":[{a},{b}]{counts}}}"#)
            }
            4 => {
                let (a, b) = (self.schema(depth - 1), self.leaf());
                format!(r#"{{"description":"one of two","anyOf":[{a},{b}]}}"#)
            }
            5 => {
                let name = self.pick(&["leaf", "chain"]);
                format!(r##"{{"$ref":"#/$defs/{name}","default":1}}"##)
            }
            6 => {
                let value = self.leaf();
                format!(r#"{{"type":"object","additionalProperties":{value}}}"#)
            }
            _ => self.object(depth),
        }
    }

    fn object(&mut self, depth: u64) -> String {
        let names = [
            "a",
            "date_time",
            "integral part",
            "é\\\"",
            "string",
            "",
            "x/y~z",
        ];
        let first = self.draw(4) as usize;
        let count = 1 + self.draw(3) as usize;
        let mut properties = Vec::new();
        let mut required = Vec::new();
        for name in &names[first..first + count] {
            properties.push(format!(r#""{name}":{}"#, self.schema(depth - 1)));
            if self.draw(3) > 0 {
                required.push(format!(r#""{name}""#));
            }
        }
        let closed = self.pick(&["", r#","additionalProperties":false"#]);
        format!(
            r#"{{"type":"object","properties":{{{}}},"required":[{}]{closed}}}"#,
            properties.join(","),
            required.join(",")
        )
    }

    fn array(&mut self, depth: u64) -> String {
        let item = self.schema(depth - 1);
        let least = self.draw(3);
        let most = least + self.draw(3);
        format!(r#"{{"type":"array","items":{item},"minItems":{least},"maxItems":{most}}}"#)
    }

    fn leaf(&mut self) -> String {
        match self.draw(8) {
            0 => self.integer(),
            1 => {
                let least = self.draw(6);
                let most = least + self.draw(6);
                format!(r#"{{"type":"string","minLength":{least},"maxLength":{most}}}"#)
            }
            2 if self.draw(2) == 0 => {
                let format = self.pick(&["date", "time", "date-time", "uuid"]);
                format!(r#"{{"type":"string","format":"{format}"}}"#)
            }
            3 => {
                let values = [
                    r#""a""#,
                    r#""ab \" \\ é ☃ \u0001""#,
                    "-1.5e3",
                    "7",
                    "null",
                    "[{}]",
                ];
                let count = 1 + self.draw(values.len() as u64) as usize;
                format!(r#"{{"enum":[{}]}}"#, values[..count].join(","))
            }
            4 => format!(
                r#"{{"const":{}}}"#,
                self.pick(&["{\"a\":[1]}", "\"b\"", "12"])
            ),
            5 => {
                let name = self.pick(&["boolean", "null", "integer", "number"]);
                format!(r#"{{"title":"T","type":"{name}"}}"#)
            }
            6 => r#"{"type":["null","string","integer"],"maxLength":3,"minimum":9}"#.to_string(),
            _ => self.integer(),
        }
    }

    fn integer(&mut self) -> String {
        let limit = 10i64.pow(1 + self.draw(15) as u32);
        let least = self.draw(limit as u64 * 2) as i64 - limit;
        let digits = self.draw(15) as u32;
        let most = least + self.draw(10u64.pow(digits)) as i64;
        match self.draw(5) {
            0 => format!(r#"{{"type":"integer","minimum":{least}}}"#),
            1 => format!(r#"{{"type":"integer","maximum":{most}}}"#),
            2 => format!(
                r#"{{"type":"integer","exclusiveMinimum":{least},"exclusiveMaximum":{}}}"#,
                most + 2
            ),
            _ => format!(r#"{{"type":"integer","minimum":{least},"maximum":{most}}}"#),
        }
    }
}
