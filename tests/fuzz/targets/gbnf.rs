//! GBNF: what is refused is refused at a line that there is, and whatever follows it; what is taken
//! is within the limits by a second count that knows nothing but the parsed rules.

use llama_cpp_bridge::shared::gbnf::{Item, Rule, What, parse};
use llama_cpp_bridge::shared::grammar_check;

use super::Draw;

/// The limits that are documented.
const ELEMENTS: u64 = 500_000;
const WAYS: u64 = 10_000;
const REPETITIONS: u64 = 2000;

/// The most rules that are looked at twice: that takes the square of their number.
const RULES: usize = 200;

/// The first byte says where the rest, a grammar, is cut.
pub(crate) fn check(input: &[u8]) {
    let mut draw = Draw::new(input);
    let cut = usize::from(draw.byte());
    let Ok(text) = std::str::from_utf8(draw.rest()) else {
        return;
    };
    let whole = outcome(text);
    for cut in [
        cut * text.len() / 256,
        text.len().saturating_sub(1 + cut % 8),
    ] {
        cut_at(text, cut, &whole);
    }
    // A comment says nothing, and a newline after the last rule neither.
    if whole.is_ok() {
        assert_eq!(outcome(&format!("# \"\n{text}\n# a\n\n")), whole);
    }
    if let Ok((rules, start)) = parse(text, "root") {
        assert!(rules[start].name == "root" && rules[start].choices.is_some());
        second_look(text, &rules);
    } else {
        let error = grammar_check::check(text, "root").err();
        assert!(error.is_some(), "checked without being read");
    }
}

/// How many rules there are and in which shapes, or why there are none.
fn outcome(text: &str) -> Result<String, String> {
    let (rules, _) = parse(text, "root").inspect_err(|reason| names_a_line(text, reason))?;
    let item = |item: &Item| match item.what {
        What::Text(elements) => format!("{elements} {} {:?}", item.min, item.max),
        What::Rule(rule) => format!("#{rule} {} {:?}", item.min, item.max),
    };
    let choice = |choice: &Vec<Item>| choice.iter().map(item).collect::<Vec<_>>().join(", ");
    let rule = |rule: &Rule| {
        let choices: Vec<String> = rule.choices.iter().flatten().map(choice).collect();
        format!("{}: {}", rule.name, choices.join(" | "))
    };
    Ok(rules.iter().map(rule).collect::<Vec<_>>().join("\n"))
}

fn names_a_line(text: &str, reason: &str) {
    if reason.starts_with("undefined rule '") || reason.starts_with("the grammar has no rule '") {
        return;
    }
    let line = reason
        .strip_prefix("line ")
        .and_then(|rest| rest.split_once(": "));
    let line = line.and_then(|(line, _)| line.parse::<usize>().ok());
    let lines = 1 + text.matches('\n').count();
    assert!(
        line.is_some_and(|line| (1..=lines).contains(&line)),
        "{reason} of {lines} lines"
    );
}

/// What is wrong before the place of a cut is wrong without the rest, in the same words; and what is
/// read without it is not wrong for what comes before.
fn cut_at(text: &str, mut cut: usize, whole: &Result<String, String>) {
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    let Err(reason) = outcome(&text[..cut]) else {
        return;
    };
    let of_the_end = reason.ends_with("found the end")
        || reason.starts_with("undefined rule '")
        || reason.starts_with("the grammar has no rule '")
        // A number may go on.
        || reason.contains(" repetitions; the limit is ")
        || reason.contains("the maximum of {");
    if !of_the_end {
        assert_eq!(whole.as_ref(), Err(&reason), "the end mattered");
    }
}

/// Looks at rules once more, and at what the check makes of them.
fn second_look(text: &str, rules: &[Rule]) {
    let checked = grammar_check::check(text, "root");
    for item in rules.iter().flat_map(items) {
        assert!(item.min <= REPETITIONS && item.max.is_none_or(|max| max <= REPETITIONS));
        assert!(item.max.is_none_or(|max| item.min <= max));
    }
    if rules.len() > RULES {
        return;
    }
    let elements: u64 = rules.iter().flat_map(items).map(least_elements).sum();
    let recursive = left_recursive(rules);
    match &checked {
        Ok(()) => {
            assert!(!text.contains('\0') && text.len() <= 1 << 20);
            assert!(elements <= ELEMENTS, "{elements} elements");
            assert!(!recursive, "left recursion");
            let ways = rules
                .iter()
                .map(|rule| rule.choices.iter().flatten().count());
            assert!(ways.max().unwrap_or(0) as u64 <= WAYS);
        }
        Err(reason) if reason.starts_with("left recursion") => assert!(recursive, "{reason}"),
        // Few rules of few bytes, each with few choices, exceed nothing else.
        Err(reason) => assert!(
            elements > ELEMENTS / 8 || text.contains('\0') || reason.contains(" begin"),
            "{reason}"
        ),
    }
}

fn items(rule: &Rule) -> impl Iterator<Item = &Item> {
    rule.choices.iter().flatten().flatten()
}

/// Elements that an item has in llama.cpp at least.
fn least_elements(item: &Item) -> u64 {
    let one = match item.what {
        What::Text(elements) => elements,
        What::Rule(_) => 1,
    };
    one * item.max.unwrap_or(item.min)
}

/// Whether a rule can begin with itself, by going through all pairs of rules until nothing changes.
fn left_recursive(rules: &[Rule]) -> bool {
    let mut empty = vec![false; rules.len()];
    let can_be_empty = |item: &Item, empty: &[bool]| match item.what {
        _ if item.min == 0 => true,
        What::Text(elements) => elements == 0,
        What::Rule(rule) => empty[rule],
    };
    for _ in rules {
        for (at, rule) in rules.iter().enumerate() {
            let mut choices = rule.choices.iter().flatten();
            empty[at] |= choices.any(|choice| choice.iter().all(|i| can_be_empty(i, &empty)));
        }
    }
    let mut begins = vec![vec![false; rules.len()]; rules.len()];
    let mut endless = false;
    for (at, rule) in rules.iter().enumerate() {
        for choice in rule.choices.iter().flatten() {
            for item in choice {
                if let What::Rule(first) = item.what {
                    begins[at][first] = true;
                    // Any number of nothing is a rule of llama.cpp's that begins with itself.
                    endless |= item.max.is_none() && empty[first];
                }
                if !can_be_empty(item, &empty) {
                    break;
                }
            }
        }
    }
    for middle in 0..rules.len() {
        let second = begins[middle].clone();
        for first in &mut begins {
            if first[middle] {
                first.iter_mut().zip(&second).for_each(|(a, b)| *a |= b);
            }
        }
    }
    endless || (0..rules.len()).any(|rule| begins[rule][rule])
}
