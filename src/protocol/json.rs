//! Reads the JSON object of a request. miniserde's own parser reports neither where nor why it
//! stopped, and takes the last of two fields of one name; a request deserves better.

/// Most levels of nesting. What reads values, and makes a grammar of a
/// schema, calls itself for each; schemas that programs write are some ten deep.
pub const DEPTH_LIMIT: usize = 64;

/// A JSON value, and its place in the text.
#[derive(Debug, PartialEq)]
pub struct Value<'a> {
    /// What it is.
    pub kind: Kind,
    /// The text of the value itself.
    pub source: &'a str,
    /// The items of an array, or the values of an object in the order of `keys`.
    pub items: Vec<Value<'a>>,
}

/// What a JSON value is.
#[derive(Debug, PartialEq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as the nearest double.
    Number(f64),
    /// A string, its escapes undone.
    String(String),
    /// An array.
    Array,
    /// The keys, in the order of the text.
    Object(Vec<String>),
}

impl Kind {
    /// What people call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Array => "an array",
            Self::Object(_) => "an object",
        }
    }
}

impl<'a> Value<'a> {
    /// The fields of an object.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        let keys: &[String] = match &self.kind {
            Kind::Object(keys) => keys,
            _ => &[],
        };
        keys.iter().map(String::as_str).zip(&self.items)
    }
}

/// Reads one value that fills the whole text.
///
/// # Errors
/// A sentence with the byte offset at which the text stops being JSON.
pub fn parse(text: &str) -> Result<Value<'_>, String> {
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    reader.blanks();
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.wrong("nothing after the value")),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn wrong(&self, expected: &str) -> String {
        let found = match self.text[self.at..].chars().next() {
            Some(found) => format!("'{}'", found.escape_debug()),
            None => "the end".to_string(),
        };
        let at = self.at;
        format!("Not valid JSON at byte {at}: expected {expected}, found {found}")
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn accept(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, String> {
        self.blanks();
        if depth > DEPTH_LIMIT {
            return Err(self.wrong(&format!("at most {DEPTH_LIMIT} levels of nesting")));
        }
        let start = self.at;
        let mut items = Vec::new();
        let kind = match self.peek() {
            Some(b'{') => self.object(depth, &mut items)?,
            Some(b'[') => self.array(depth, &mut items)?,
            Some(b'"') => Kind::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ => self.word()?,
        };
        let source = &self.text[start..self.at];
        Ok(Value {
            kind,
            source,
            items,
        })
    }

    fn word(&mut self) -> Result<Kind, String> {
        let words = [
            ("null", Kind::Null),
            ("true", Kind::Bool(true)),
            ("false", Kind::Bool(false)),
        ];
        for (word, kind) in words {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(kind);
            }
        }
        Err(self.wrong("a value"))
    }

    fn array(&mut self, depth: usize, items: &mut Vec<Value<'a>>) -> Result<Kind, String> {
        self.at += 1;
        self.blanks();
        if self.accept(b']') {
            return Ok(Kind::Array);
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.blanks();
            if self.accept(b']') {
                return Ok(Kind::Array);
            }
            if !self.accept(b',') {
                return Err(self.wrong("',' or ']'"));
            }
        }
    }

    fn object(&mut self, depth: usize, items: &mut Vec<Value<'a>>) -> Result<Kind, String> {
        let mut keys = Vec::new();
        self.at += 1;
        self.blanks();
        if self.accept(b'}') {
            return Ok(Kind::Object(keys));
        }
        loop {
            self.blanks();
            if self.peek() != Some(b'"') {
                return Err(self.wrong("the name of a field"));
            }
            keys.push(self.string()?);
            self.blanks();
            if !self.accept(b':') {
                return Err(self.wrong("':'"));
            }
            items.push(self.value(depth + 1)?);
            self.blanks();
            if self.accept(b'}') {
                return Ok(Kind::Object(keys));
            }
            if !self.accept(b',') {
                return Err(self.wrong("',' or '}'"));
            }
        }
    }

    /// By the grammar of RFC 8259: Rust's own parser takes more.
    fn number(&mut self) -> Result<Kind, String> {
        let start = self.at;
        self.accept(b'-');
        if !self.accept(b'0') {
            self.digits()?;
        }
        if self.accept(b'.') {
            self.digits()?;
        }
        if self.accept(b'e') || self.accept(b'E') {
            let _ = self.accept(b'+') || self.accept(b'-');
            self.digits()?;
        }
        let number = self.text[start..self.at].parse();
        number.map(Kind::Number).map_err(|_| self.wrong("a number"))
    }

    fn digits(&mut self) -> Result<(), String> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if start == self.at {
            return Err(self.wrong("a digit"));
        }
        Ok(())
    }

    fn string(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut string = String::new();
        loop {
            let rest = &self.text[self.at..];
            let plain = rest
                .find(|c: char| c == '"' || c == '\\' || c < ' ')
                .unwrap_or(rest.len());
            string.push_str(&rest[..plain]);
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(string);
                }
                Some(b'\\') => string.push(self.escape()?),
                _ => return Err(self.wrong("the rest of a string, control characters escaped")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        self.at += 1;
        let plain = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return Err(self.wrong("one of \" \\ / b f n r t u after '\\'")),
        };
        self.at += 1;
        Ok(plain)
    }

    fn unicode_escape(&mut self) -> Result<char, String> {
        let start = self.at;
        let first = self.four_digits()?;
        if !(0xd800..0xe000).contains(&first) {
            return char::from_u32(first).ok_or_else(|| self.wrong("a character"));
        }
        if first < 0xdc00 && self.text[self.at..].starts_with("\\u") {
            self.at += 1;
            let second = self.four_digits()?;
            if (0xdc00..0xe000).contains(&second) {
                let joined = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return char::from_u32(joined).ok_or_else(|| self.wrong("a character"));
            }
        }
        self.at = start;
        Err(self.wrong("both halves of a surrogate pair"))
    }

    /// Reads the `u` and the four hexadecimal digits after it.
    fn four_digits(&mut self) -> Result<u32, String> {
        self.at += 1;
        let digits = self.text.get(self.at..self.at + 4).unwrap_or("");
        let all = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let code = u32::from_str_radix(digits, 16).ok().filter(|_| all);
        let code = code.ok_or_else(|| self.wrong("four hexadecimal digits"))?;
        self.at += 4;
        Ok(code)
    }
}

#[cfg(test)]
mod tests;
