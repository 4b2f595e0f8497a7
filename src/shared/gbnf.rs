//! Parses a grammar in llama.cpp's GBNF, as llama.cpp does, but without expanding repetitions.

use std::collections::HashMap;
use std::iter::Peekable;
use std::str::Chars;

/// How deep parentheses may be nested: llama.cpp recurses for each.
const NESTING_LIMIT: usize = 100;

/// The most repetitions of one item. llama.cpp ignores a larger upper limit.
const REPETITION_LIMIT: u64 = 2000;

/// A rule, or the part of one in parentheses.
pub struct Rule {
    /// Its name, or that of the rule that the parentheses are in.
    pub name: String,
    /// Its alternatives, each a sequence of items; `None` while it is only referred to.
    pub choices: Option<Vec<Vec<Item>>>,
}

/// A part of a sequence, and how often it may occur.
pub struct Item {
    /// What may occur.
    pub what: What,
    /// The least number of times.
    pub min: u64,
    /// The most; `None` is any number of times.
    pub max: Option<u64>,
}

/// What an item is.
#[derive(Clone, Copy)]
pub enum What {
    /// Characters or a token, and how many elements they take in llama.cpp.
    Text(u64),
    /// The rule at this index.
    Rule(usize),
}

/// Parses a grammar; returns its rules and the index of the start rule, which has the name `root`.
///
/// # Errors
/// A sentence with the line in which the text is not a grammar.
pub fn parse(text: &str, root: &str) -> Result<(Vec<Rule>, usize), String> {
    let mut parser = Parser {
        rest: text.chars().peekable(),
        line: 1,
        rules: Vec::new(),
        names: HashMap::new(),
        name: String::new(),
    };
    parser.blanks(true);
    while parser.peek().is_some() {
        parser.rule()?;
    }
    if let Some(rule) = parser.rules.iter().find(|rule| rule.choices.is_none()) {
        return Err(format!("undefined rule '{}'", rule.name));
    }
    let start = parser.names.get(root).copied();
    let start =
        start.ok_or_else(|| format!("the grammar has no rule '{root}', with which it starts"))?;
    Ok((parser.rules, start))
}

struct Parser<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
    rules: Vec<Rule>,
    names: HashMap<String, usize>,
    /// The name of the rule that is being parsed.
    name: String,
}

impl Parser<'_> {
    fn wrong(&mut self, expected: &str) -> String {
        let found = match self.peek() {
            Some(found) => format!("'{}'", found.escape_debug()),
            None => "the end".to_string(),
        };
        format!("line {}: expected {expected}, found {found}", self.line)
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn accept(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        match self.accept(wanted) {
            true => Ok(()),
            false => Err(self.wrong(&format!("'{wanted}'"))),
        }
    }

    /// Skips blanks and comments, and newlines where they mean the same as blanks.
    fn blanks(&mut self, newlines: bool) {
        while let Some(found) = self.peek() {
            match found {
                ' ' | '\t' => (),
                '\r' | '\n' if newlines => (),
                '#' => {
                    while !matches!(self.peek(), None | Some('\r' | '\n')) {
                        self.next();
                    }
                    continue;
                }
                _ => return,
            }
            self.next();
        }
    }

    fn rule(&mut self) -> Result<(), String> {
        let line = self.line;
        let name = self.name()?;
        self.blanks(false);
        for wanted in "::=".chars() {
            if !self.accept(wanted) {
                return Err(self.wrong("'::='"));
            }
        }
        self.blanks(true);
        let rule = self.reference(&name);
        if self.rules[rule].choices.is_some() {
            return Err(format!("line {line}: the rule '{name}' is defined twice"));
        }
        self.name = name;
        self.rules[rule].choices = Some(self.choices(0)?);
        if !matches!(self.peek(), None | Some('\r' | '\n')) {
            return Err(self.wrong("a newline or the end"));
        }
        self.blanks(true);
        Ok(())
    }

    fn name(&mut self) -> Result<String, String> {
        let mut name = String::new();
        while let Some(letter) = self.peek().filter(is_word) {
            name.push(letter);
            self.next();
        }
        match name.is_empty() {
            true => Err(self.wrong("the name of a rule (letters, digits and '-')")),
            false => Ok(name),
        }
    }

    /// The index of the rule of this name, which may not have been parsed yet.
    fn reference(&mut self, name: &str) -> usize {
        if let Some(rule) = self.names.get(name) {
            return *rule;
        }
        let rule = self.add(name.to_string(), None);
        self.names.insert(name.to_string(), rule);
        rule
    }

    fn add(&mut self, name: String, choices: Option<Vec<Vec<Item>>>) -> usize {
        self.rules.push(Rule { name, choices });
        self.rules.len() - 1
    }

    fn choices(&mut self, depth: usize) -> Result<Vec<Vec<Item>>, String> {
        let mut choices = vec![self.sequence(depth)?];
        while self.accept('|') {
            self.blanks(true);
            choices.push(self.sequence(depth)?);
        }
        Ok(choices)
    }

    fn sequence(&mut self, depth: usize) -> Result<Vec<Item>, String> {
        let mut items: Vec<Item> = Vec::new();
        while let Some(found) = self.peek() {
            let what = match found {
                '"' => self.literal()?,
                '[' => self.class()?,
                '<' | '!' => self.token()?,
                '(' => self.group(depth)?,
                '*' | '+' | '?' | '{' => {
                    let item = items.pop();
                    let item = item.ok_or_else(|| self.wrong("a preceding item to repeat"))?;
                    items.push(self.repeated(item, depth > 0)?);
                    continue;
                }
                '.' => {
                    self.next();
                    What::Text(1)
                }
                letter if is_word(&letter) => {
                    let name = self.name()?;
                    What::Rule(self.reference(&name))
                }
                _ => break,
            };
            self.blanks(depth > 0);
            items.push(once(what));
        }
        Ok(items)
    }

    fn literal(&mut self) -> Result<What, String> {
        self.next();
        let mut length = 0;
        while !self.accept('"') {
            self.character("the rest of a text, up to '\"'")?;
            length += 1;
        }
        Ok(What::Text(length))
    }

    fn class(&mut self) -> Result<What, String> {
        self.next();
        self.accept('^');
        let mut length = 0;
        while !self.accept(']') {
            self.character("the rest of a class, up to ']'")?;
            length += 1;
        }
        Ok(What::Text(length))
    }

    /// Parses a character, which may be an escape sequence.
    fn character(&mut self, expected: &str) -> Result<(), String> {
        match self.peek() {
            None => return Err(self.wrong(expected)),
            Some('\\') => self.next(),
            Some(_) => {
                self.next();
                return Ok(());
            }
        };
        let digits = match self.peek() {
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some('t' | 'r' | 'n' | '\\' | '"' | '[' | ']' | '-') => 0,
            _ => return Err(self.wrong("one of x u U t r n \\ \" [ ] - after '\\'")),
        };
        self.next();
        for _ in 0..digits {
            if !self.peek().is_some_and(|digit| digit.is_ascii_hexdigit()) {
                return Err(self.wrong(&format!("{digits} hexadecimal digits")));
            }
            self.next();
        }
        Ok(())
    }

    /// Parses a token; only llama.cpp knows which one its name means.
    fn token(&mut self) -> Result<What, String> {
        self.accept('!');
        self.expect('<')?;
        while !self.accept('>') {
            if self.next().is_none() {
                return Err(self.wrong("the rest of a token, up to '>'"));
            }
        }
        Ok(What::Text(1))
    }

    fn group(&mut self, depth: usize) -> Result<What, String> {
        if depth == NESTING_LIMIT {
            let line = self.line;
            return Err(format!(
                "line {line}: parentheses are nested more than {NESTING_LIMIT} deep"
            ));
        }
        self.next();
        self.blanks(true);
        let choices = self.choices(depth + 1)?;
        self.expect(')')?;
        Ok(What::Rule(self.add(self.name.clone(), Some(choices))))
    }

    /// Parses how often the item before may occur.
    fn repeated(&mut self, item: Item, newlines: bool) -> Result<Item, String> {
        let sign = self.next();
        self.blanks(newlines);
        let (min, max) = match sign {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            _ => self.braces(newlines)?,
        };
        let what = match (item.min, item.max) {
            (1, Some(1)) => item.what,
            _ => What::Rule(self.add(self.name.clone(), Some(vec![vec![item]]))),
        };
        Ok(Item { what, min, max })
    }

    fn braces(&mut self, newlines: bool) -> Result<(u64, Option<u64>), String> {
        let min = self.number(newlines)?;
        let max = match self.accept(',') {
            false => Some(min),
            true => {
                self.blanks(newlines);
                match self.peek() {
                    Some('0'..='9') => Some(self.number(newlines)?),
                    _ => None,
                }
            }
        };
        self.expect('}')?;
        self.blanks(newlines);
        match max {
            Some(max) if max < min => Err(format!(
                "line {}: the maximum of {{{min},{max}}} is less than its minimum",
                self.line
            )),
            _ => Ok((min, max)),
        }
    }

    fn number(&mut self, newlines: bool) -> Result<u64, String> {
        let mut digits = String::new();
        while let Some(digit) = self.peek().filter(char::is_ascii_digit) {
            digits.push(digit);
            self.next();
        }
        if digits.is_empty() {
            return Err(self.wrong("a number of repetitions"));
        }
        self.blanks(newlines);
        let number = digits.parse().ok();
        number.filter(|n| *n <= REPETITION_LIMIT).ok_or_else(|| {
            format!(
                "line {}: {digits} repetitions; the limit is {REPETITION_LIMIT} \
                 ({{n,}} is n or more)",
                self.line
            )
        })
    }
}

fn once(what: What) -> Item {
    Item {
        what,
        min: 1,
        max: Some(1),
    }
}

fn is_word(letter: &char) -> bool {
    letter.is_ascii_alphanumeric() || *letter == '-'
}

#[cfg(test)]
mod tests;
