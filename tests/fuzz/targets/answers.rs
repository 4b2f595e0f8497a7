//! Answers that follow a grammar, drawn: a reader of GBNF that knows no more of it than our schemas
//! need, and writes what it reads.

use std::collections::HashMap;

use super::Draw;

/// How deep rules may refer to rules before only the shortest choices are taken.
const DEEP: usize = 40;

/// Bytes of the longest answer that is drawn to its end.
const LONGEST: usize = 20_000;

/// A part of a rule.
enum Node {
    Text(String),
    /// Ranges of characters, or all but those.
    Class(Vec<(char, char)>, bool),
    Rule(String),
    Any(Vec<Node>),
    All(Vec<Node>),
    /// Least and most times.
    Times(Box<Node>, usize, Option<usize>),
}

/// A grammar.
pub(super) struct Grammar {
    rules: HashMap<String, Node>,
    /// How deep the rules are at least that a rule refers to.
    heights: HashMap<String, usize>,
}

impl Grammar {
    /// Reads a grammar with a rule on each line.
    pub(super) fn read(text: &str) -> Self {
        let rule = |line: &str| {
            let (name, body) = line.split_once(" ::= ").expect("a rule on each line");
            let mut rest = body;
            let node = choices(&mut rest);
            assert!(rest.is_empty(), "left over: {rest}");
            (name.to_string(), node)
        };
        let mut grammar = Self {
            rules: text.lines().map(rule).collect(),
            heights: HashMap::new(),
        };
        loop {
            let known = grammar.heights.len();
            let found: Vec<_> = grammar
                .rules
                .iter()
                .filter(|(name, _)| !grammar.heights.contains_key(*name))
                .filter_map(|(name, node)| Some((name.clone(), 1 + grammar.height(node)?)))
                .collect();
            grammar.heights.extend(found);
            if grammar.heights.len() == known {
                assert!(known == grammar.rules.len(), "a rule has no end");
                return grammar;
            }
        }
    }

    /// The height of a part, if that is known.
    fn height(&self, node: &Node) -> Option<usize> {
        match node {
            Node::Text(_) | Node::Class(..) | Node::Times(_, 0, _) => Some(0),
            Node::Rule(name) => self.heights.get(name).copied(),
            Node::Any(nodes) => nodes.iter().filter_map(|node| self.height(node)).min(),
            Node::All(nodes) => {
                let heights = nodes.iter().map(|node| self.height(node));
                heights.sum::<Option<usize>>()
            }
            Node::Times(node, ..) => self.height(node),
        }
    }

    /// A text that the grammar allows, unless it gets too long.
    pub(super) fn draw(&self, draw: &mut Draw<'_>) -> Option<String> {
        let mut text = String::new();
        self.write(&self.rules["root"], draw, 0, &mut text);
        (text.len() <= LONGEST).then_some(text)
    }

    fn write(&self, node: &Node, draw: &mut Draw<'_>, depth: usize, text: &mut String) {
        match node {
            _ if text.len() > LONGEST => (),
            Node::Text(literal) => text.push_str(literal),
            Node::Class(ranges, others) => text.push(character(ranges, *others, draw)),
            Node::Rule(name) => self.write(&self.rules[name], draw, depth + 1, text),
            Node::All(nodes) => nodes
                .iter()
                .for_each(|node| self.write(node, draw, depth, text)),
            Node::Any(nodes) if depth > DEEP || draw.is_empty() => {
                let shortest = nodes.iter().min_by_key(|node| self.height(node));
                shortest
                    .into_iter()
                    .for_each(|node| self.write(node, draw, depth, text));
            }
            Node::Any(nodes) => {
                let at = (draw.below(256) << 8 | draw.below(256)) % nodes.len();
                self.write(&nodes[at], draw, depth, text);
            }
            Node::Times(node, least, most) => {
                let more = match most {
                    _ if depth > DEEP || draw.is_empty() => 0,
                    None => draw.below(4),
                    Some(most) => draw.below(256) % (most - least + 1),
                };
                let mut times = 0..least + more;
                while text.len() <= LONGEST && times.next().is_some() {
                    self.write(node, draw, depth, text);
                }
            }
        }
    }
}

fn character(ranges: &[(char, char)], others: bool, draw: &mut Draw<'_>) -> char {
    let within = |c: &char| ranges.iter().any(|(low, high)| (low..=high).contains(&c));
    if others {
        let some = ['a', '\u{e9}', '/', '\u{1f600}', '"', '\\', '\n', '\u{7f}'];
        let at = draw.below(some.len());
        let rest = some.iter().cycle().skip(at).take(some.len());
        return rest.copied().find(|c| !within(c)).expect("it allows some");
    }
    let (low, high) = draw.pick(ranges);
    (low..=high)
        .nth(draw.below(256) % (high as usize - low as usize + 1))
        .unwrap_or(low)
}

/// Reads alternatives, up to the end or a `)`.
fn choices(rest: &mut &str) -> Node {
    let mut all = vec![Vec::new()];
    loop {
        *rest = rest.trim_start_matches(' ');
        let node = match rest.chars().next() {
            None | Some(')') => break,
            Some('|') => {
                *rest = &rest[1..];
                all.push(Vec::new());
                continue;
            }
            Some('(') => {
                *rest = &rest[1..];
                let node = choices(rest);
                *rest = rest.strip_prefix(')').expect("a group ends");
                node
            }
            Some('"') => Node::Text(literal(rest)),
            Some('[') => class(rest),
            Some(_) => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric());
                let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
                assert!(!name.is_empty(), "not a rule: {rest}");
                *rest = after;
                Node::Rule(name.to_string())
            }
        };
        let node = repeated(node, rest);
        all.last_mut().expect("there is one").push(node);
    }
    Node::Any(all.into_iter().map(Node::All).collect())
}

fn repeated(node: Node, rest: &mut &str) -> Node {
    let (least, most, length) = match rest.chars().next() {
        Some('*') => (0, None, 1),
        Some('?') => (0, Some(1), 1),
        Some('{') => {
            let end = rest.find('}').expect("braces end");
            let (least, most) = rest[1..end]
                .split_once(',')
                .unwrap_or((&rest[1..end], &rest[1..end]));
            (least.parse().expect("a number"), most.parse().ok(), end + 1)
        }
        _ => return node,
    };
    *rest = &rest[length..];
    Node::Times(Box::new(node), least, most)
}

fn literal(rest: &mut &str) -> String {
    *rest = &rest[1..];
    let mut text = String::new();
    loop {
        match next(rest) {
            ('"', false) => return text,
            (letter, _) => text.push(letter),
        }
    }
}

fn class(rest: &mut &str) -> Node {
    let others = rest.starts_with("[^");
    *rest = &rest[if others { 2 } else { 1 }..];
    let mut ranges: Vec<(char, char)> = Vec::new();
    loop {
        match next(rest) {
            (']', false) => return Node::Class(ranges, others),
            ('-', false) if !ranges.is_empty() && !rest.starts_with(']') => {
                ranges.last_mut().expect("there is one").1 = next(rest).0;
            }
            (letter, _) => ranges.push((letter, letter)),
        }
    }
}

/// The next character, and whether it was escaped.
fn next(rest: &mut &str) -> (char, bool) {
    let mut characters = rest.chars();
    let first = characters.next().expect("it has an end");
    *rest = characters.as_str();
    if first != '\\' {
        return (first, false);
    }
    let letter = characters.next().expect("it has an end");
    *rest = characters.as_str();
    let plain = match letter {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'x' => {
            let code = u8::from_str_radix(&rest[..2], 16).expect("two digits");
            *rest = &rest[2..];
            char::from(code)
        }
        other => other,
    };
    (plain, true)
}
