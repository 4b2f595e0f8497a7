//! Checks that llama.cpp can use a grammar (GBNF) in reasonable time and memory. It does not check
//! that itself.

use crate::shared::gbnf::{self, Item, Rule, What};

/// Bytes of a grammar: a schema of the largest size makes less.
const MAX_BYTES: usize = 1024 * 1024;

/// Elements (characters, ranges, references) of a grammar whose repetitions are expanded, as
/// llama.cpp does. Each takes 8 bytes, or some hundred as a rule of its own, and there are two
/// copies.
const ELEMENT_LIMIT: u64 = 500_000;

/// Ways in which a rule can begin, counted through the rules that it begins with. llama.cpp follows
/// all of them, each separately from then on.
const WAY_LIMIT: u64 = 10_000;

/// The sum of the ways of all rules, which llama.cpp follows once when it compiles a grammar.
const ALL_WAYS_LIMIT: u64 = 10_000_000;

/// The longest chain of rules that begin with each other: llama.cpp recurses for each.
const CHAIN_LIMIT: usize = 1000;

/// Elements that llama.cpp adds for each optional repetition.
const REPETITION_ELEMENTS: u64 = 3;

/// Checks a grammar with the start rule `root`.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check(text: &str, root: &str) -> Result<(), String> {
    if text.len() > MAX_BYTES {
        let size = text.len();
        return Err(format!("{size} bytes; the limit is {MAX_BYTES}"));
    }
    if text.contains('\0') {
        return Err("it contains a null character".to_string());
    }
    let (rules, _) = gbnf::parse(text, root)?;
    let elements = rules.iter().flat_map(items).map(elements);
    if elements.fold(0, u64::saturating_add) > ELEMENT_LIMIT {
        return Err(format!(
            "more than {ELEMENT_LIMIT} elements with its repetitions expanded"
        ));
    }
    let nullable = nullable(&rules);
    let mut beginnings = Beginnings {
        rules: &rules,
        nullable: &nullable,
        known: vec![Known::Nothing; rules.len()],
    };
    let mut all = 0u64;
    for rule in 0..rules.len() {
        let (ways, _) = beginnings.of(rule, 0)?;
        all = all.saturating_add(ways);
    }
    if all > ALL_WAYS_LIMIT {
        return Err("all its rules together can begin in too many ways".to_string());
    }
    Ok(())
}

fn items(rule: &Rule) -> impl Iterator<Item = &Item> {
    rule.choices.iter().flatten().flatten()
}

fn elements(item: &Item) -> u64 {
    let one = match item.what {
        What::Text(elements) => elements,
        What::Rule(_) => 1,
    };
    let optional = item.max.map_or(1, |max| max - item.min);
    let fixed = one.saturating_mul(item.min);
    let optional = (one + REPETITION_ELEMENTS).saturating_mul(optional);
    fixed.saturating_add(optional).saturating_add(1)
}

/// For each rule whether it can be empty.
fn nullable(rules: &[Rule]) -> Vec<bool> {
    // For each sequence the number of rules that must be able to be empty for it to be so; a rule
    // that is found to be is subtracted from the sequences that wait for it.
    let mut nullable = vec![false; rules.len()];
    let mut waiting: Vec<Vec<usize>> = vec![Vec::new(); rules.len()];
    let mut sequences: Vec<(usize, usize)> = Vec::new();
    let mut ready = Vec::new();
    for (owner, rule) in rules.iter().enumerate() {
        for choice in rule.choices.iter().flatten() {
            let needed = choice.iter().filter(|item| item.min > 0);
            if needed.clone().any(|i| matches!(i.what, What::Text(1..))) {
                continue;
            }
            let mut count = 0;
            for item in needed {
                if let What::Rule(rule) = item.what {
                    waiting[rule].push(sequences.len());
                    count += 1;
                }
            }
            sequences.push((owner, count));
            if count == 0 {
                ready.push(owner);
            }
        }
    }
    while let Some(rule) = ready.pop() {
        if std::mem::replace(&mut nullable[rule], true) {
            continue;
        }
        for &sequence in &waiting[rule] {
            let (owner, count) = &mut sequences[sequence];
            *count -= 1;
            if *count == 0 {
                ready.push(*owner);
            }
        }
    }
    nullable
}

/// What is known of how a rule begins.
#[derive(Clone, Copy)]
enum Known {
    Nothing,
    /// It is being determined.
    Open,
    /// The ways, and the longest chain of rules that begin with each other.
    Ways(u64, usize),
}

struct Beginnings<'a> {
    rules: &'a [Rule],
    nullable: &'a [bool],
    known: Vec<Known>,
}

impl Beginnings<'_> {
    /// The ways in which a rule can begin, itself one, and the longest chain.
    fn of(&mut self, rule: usize, depth: usize) -> Result<(u64, usize), String> {
        let rules = self.rules;
        let name = &rules[rule].name;
        match self.known[rule] {
            Known::Ways(ways, chain) => return Ok((ways, chain)),
            Known::Open => {
                return Err(format!(
                    "left recursion: the rule '{name}' can begin with itself"
                ));
            }
            Known::Nothing => self.known[rule] = Known::Open,
        }
        if depth > CHAIN_LIMIT {
            return Err(too_long(name));
        }
        let (mut ways, mut longest) = (1u64, 0);
        for choice in rules[rule].choices.iter().flatten() {
            for item in choice {
                let (more, chain) = self.of_item(item, depth)?;
                ways = ways.saturating_add(more);
                longest = longest.max(chain + 1);
                if !self.can_be_empty(item) {
                    break;
                }
            }
        }
        if longest > CHAIN_LIMIT {
            return Err(too_long(name));
        }
        if ways > WAY_LIMIT {
            return Err(format!(
                "the rule '{name}' can begin in more than {WAY_LIMIT} ways; \
                 factor out common prefixes"
            ));
        }
        self.known[rule] = Known::Ways(ways, longest);
        Ok((ways, longest))
    }

    fn of_item(&mut self, item: &Item, depth: usize) -> Result<(u64, usize), String> {
        let What::Rule(rule) = item.what else {
            return Ok((1, 0));
        };
        let (ways, chain) = self.of(rule, depth + 1)?;
        if !self.nullable[rule] {
            return Ok((ways + 1, chain));
        }
        // Each repetition can be empty, so that it begins with all that follow as well.
        if item.max.is_none() {
            let name = &self.rules[rule].name;
            return Err(format!(
                "left recursion: in the rule '{name}' something that can be empty is repeated \
                 without limit"
            ));
        }
        let max = item.max.unwrap_or(1);
        Ok((ways.saturating_mul(max) + 1, chain + max as usize))
    }

    fn can_be_empty(&self, item: &Item) -> bool {
        let empty = match item.what {
            What::Text(elements) => elements == 0,
            What::Rule(rule) => self.nullable[rule],
        };
        empty || item.min == 0
    }
}

fn too_long(name: &str) -> String {
    format!("the rule '{name}' begins with a chain of more than {CHAIN_LIMIT} rules")
}

#[cfg(test)]
mod tests;
