//! The messages under DIAGNOSTICS: that the sources say them.

use std::fs;
use std::path::Path;

use super::page::{program_manual, section, sources};

/// The texts of the sources, their lines joined and their placeholders as `{}`.
fn texts() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let model_program = root.join("bin/llama-cpp-bridge-model");
    let files = [sources(&root), sources(&model_program)].concat();
    let code = files
        .iter()
        .map(|file| fs::read_to_string(file).expect("a source can be read"));
    let code: String = code.collect();
    let mut lines = code.split("\\\n");
    let mut joined = lines.next().unwrap_or_default().to_string();
    joined.extend(lines.map(str::trim_start));
    let mut parts = joined.split('{');
    let mut text = parts.next().unwrap_or_default().to_string();
    let named =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_:?.".contains(&byte);
    for part in parts {
        let placeholder = part
            .split_once('}')
            .filter(|(name, _)| name.bytes().all(named));
        text.push_str("{}");
        text.push_str(placeholder.map_or(part, |(_, rest)| rest));
    }
    text
}

/// What a message of DIAGNOSTICS says, up to and between its words in capitals, where that is at
/// least three words: fewer may be put together by the code.
fn literal_parts(message: &str) -> Vec<String> {
    let variable = |word: &str| {
        let word = word.trim_matches(|c: char| !c.is_ascii_alphabetic());
        let word = word.strip_suffix(".lock").unwrap_or(word);
        !["", "AUTH", "SIGKILL"].contains(&word)
            && word.bytes().all(|byte| byte.is_ascii_uppercase())
    };
    let words: Vec<&str> = message.split(' ').collect();
    let option = |word: &str| word.starts_with("--") && word.ends_with(':');
    let parts =
        words.split(|word| variable(word) || option(word) || word.contains('=') || *word == "...");
    let parts = parts.filter(|part| part.len() >= 3);
    parts
        .map(|part| part.join(" ").trim_end_matches(',').to_string())
        .collect()
}

#[test]
fn every_message_under_diagnostics_is_in_the_sources() {
    let page = program_manual();
    let texts = texts();
    let mut checked = 0;
    for line in section(&page, "DIAGNOSTICS").lines() {
        let Some(message) = line.strip_prefix(".It ") else {
            continue;
        };
        for part in literal_parts(message) {
            assert!(texts.contains(&part), "no source says '{part}': {message}");
            checked += 1;
        }
    }
    assert!(checked >= 10, "only {checked} messages were looked for");
}
