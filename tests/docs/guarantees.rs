//! The section GUARANTEES: that a test holds each of its sentences.

use std::fs;
use std::path::Path;

use super::page::{protocol_manual, section};

/// How a comment of the page begins that names the tests of the sentence before it.
const TESTED_BY: &str = ".\\\" tested by ";

/// The sentences of the section, each with what is said to test it.
fn sentences(text: &str) -> Vec<(String, Vec<&str>)> {
    let mut sentences = Vec::new();
    let mut words = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let between = [".It", ".Pp", ".Bl", ".El", ".Ss"];
        if between.iter().any(|name| line.starts_with(name)) {
            assert!(words.is_empty(), "a sentence without an end: {words}");
            continue;
        }
        words = format!("{words} {line}");
        if !line.ends_with('.') && !line.ends_with(':') {
            continue;
        }
        let mut tests = Vec::new();
        while let Some(comment) = lines.peek().and_then(|next| next.strip_prefix(TESTED_BY)) {
            tests.extend(comment.split(", ").map(|name| name.trim_end_matches(',')));
            lines.next();
        }
        sentences.push((std::mem::take(&mut words), tests));
    }
    sentences
}

/// Whether there is such a test, as cargo test names it, `slot::loading::NAME`.
fn exists(name: &str) -> bool {
    let Some((file, function)) = name.rsplit_once("::") else {
        return false;
    };
    let path = format!("tests/{}.rs", file.replace("::", "/"));
    let code = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    let start = format!("fn {function}(");
    code.is_ok_and(|code| {
        let mut parts = code.split("#[test]").skip(1);
        parts.any(|part| part.lines().any(|line| line.starts_with(&start)))
    })
}

#[test]
fn every_sentence_of_the_guarantees_names_its_tests() {
    let page = protocol_manual();
    let sentences = sentences(section(&page, "GUARANTEES"));
    assert!(sentences.len() >= 15, "{sentences:?}");
    for (sentence, tests) in &sentences {
        // One that ends with a colon leads to others.
        let leads = sentence.ends_with(':');
        assert!(leads || !tests.is_empty(), "no test is named:{sentence}");
        for test in tests {
            assert!(exists(test), "there is no test {test}:{sentence}");
        }
    }
}
