//! The options of the bridge: in the code, in `--help`, and in the pages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use super::page::{between, item, name, pages, program_manual, range, read, section};
use crate::harness::{program, run};
use llama_cpp_bridge::shared::ranges;

/// The options that a page's tagged items begin with, as they are typed.
fn documented_options(page: &str) -> BTreeSet<String> {
    let mut options = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with(".It Fl ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let flags = words
            .windows(2)
            .filter(|pair| pair[0] == "Fl")
            .map(|pair| pair[1]);
        options.extend(flags.map(|flag| format!("-{flag}")));
    }
    options
}

/// Options that are ignored with a warning, for one more release.
const DEPRECATED: [&str; 1] = ["--preload"];

/// The options that the code takes, as they are typed.
fn accepted_options() -> BTreeSet<String> {
    let code = read("src/cli/options.rs");
    let long = between(&code, "Long(\"", "\")")
        .into_iter()
        .map(|name| format!("--{name}"));
    let short = between(&code, "Short('", "')")
        .into_iter()
        .map(|name| format!("-{name}"));
    let sampling = ranges::ALL
        .iter()
        .map(|limit| format!("--{}", limit.option));
    let all = long.chain(short).chain(sampling);
    all.filter(|name| !DEPRECATED.contains(&name.as_str()))
        .collect()
}

#[test]
fn every_option_stands_in_the_manual_and_the_reverse() {
    let accepted = accepted_options();
    assert!(
        accepted.len() > 30,
        "the options were not found: {accepted:?}"
    );
    assert_eq!(
        documented_options(section(&program_manual(), "OPTIONS")),
        accepted
    );
}

/// The options that the help shows, as they are typed.
fn options_of_help(help: &str) -> BTreeSet<String> {
    let mut shown = BTreeSet::new();
    for line in help
        .lines()
        .filter(|line| line.trim_start().starts_with('-'))
    {
        let names = line
            .split([' ', ','])
            .take_while(|word| word.is_empty() || word.starts_with('-'));
        shown.extend(names.filter(|word| !word.is_empty()).map(String::from));
    }
    shown
}

#[test]
fn every_option_stands_in_the_help_and_the_reverse() {
    let help = run(Command::new(program()).arg("--help")).output;
    let shown = options_of_help(&help);
    assert_eq!(shown, accepted_options());
}

/// The long options that a line of `.Fl` or of `.It Fl` names, as they are typed.
fn long_options(line: &str) -> impl Iterator<Item = String> {
    let words = line.split([' ', ',']);
    words
        .filter(|word| word.len() > 1 && word.starts_with('-'))
        .map(|word| format!("-{word}"))
}

/// The options of each subject in the index at the beginning of OPTIONS.
fn indexed_options(options: &str) -> BTreeMap<String, Vec<String>> {
    let (_, index) = options.split_once("\n.Bl ").expect("there is an index");
    let (index, _) = index.split_once("\n.El\n").expect("it ends");
    let groups = index.split("\n.It Sx ").skip(1).map(|group| {
        let mut lines = group.lines();
        let subject = lines.next().unwrap_or_default().to_string();
        (subject, lines.flat_map(long_options).collect())
    });
    groups.collect()
}

/// The options that each section of OPTIONS describes.
fn described_options(options: &str) -> BTreeMap<String, Vec<String>> {
    let sections = options.split("\n.Ss ").skip(1).map(|section| {
        let mut lines = section.lines();
        let subject = lines.next().unwrap_or_default().to_string();
        let items = lines.filter(|line| line.starts_with(".It Fl "));
        (subject, items.flat_map(long_options).collect())
    });
    sections.collect()
}

#[test]
fn every_option_of_the_help_is_in_the_index_and_in_the_section_that_it_names() {
    let page = program_manual();
    let options = section(&page, "OPTIONS");
    let indexed = indexed_options(options);
    assert_eq!(indexed, described_options(options));
    let indexed: Vec<&String> = indexed.values().flatten().collect();
    let help = run(Command::new(program()).arg("--help")).output;
    let shown = options_of_help(&help);
    let long: BTreeSet<&String> = shown.iter().filter(|name| name.starts_with("--")).collect();
    assert_eq!(indexed.iter().copied().collect::<BTreeSet<_>>(), long);
    assert_eq!(indexed.len(), long.len(), "an option is in two sections");
}

#[test]
fn a_manual_names_no_option_that_does_not_exist() {
    let accepted = accepted_options();
    // llambo's page names options of both programs; a test of its own looks at its own.
    for path in pages().iter().filter(|path| name(path) != "llambo.1") {
        let page = fs::read_to_string(path).expect("the page can be read");
        for name in between(&page, "Fl -", "\n") {
            let name = name.split_whitespace().next().unwrap_or_default();
            let name = format!("--{name}");
            assert!(
                accepted.contains(&name) || DEPRECATED.contains(&name.as_str()),
                "{path:?}: {name}"
            );
        }
    }
}

#[test]
fn the_ranges_of_the_options_of_sampling_stand_in_the_manual() {
    let page = program_manual();
    for limit in ranges::ALL {
        let item = item(&page, &format!("Fl -{} Ar", limit.option));
        assert!(item.contains(&format!("\n{}, ", range(limit))), "{item}");
    }
}

#[test]
fn the_defaults_in_the_help_stand_in_the_manual() {
    let help = run(Command::new(program()).arg("--help")).output;
    let page = program_manual();
    let options = section(&page, "OPTIONS");
    for item in options.split("\n.It Fl ").skip(1) {
        let Some(name) = between(item.lines().next().unwrap_or(""), "Fl -", " ").pop_first() else {
            continue;
        };
        let shown = help
            .split("--")
            .find(|part| part.starts_with(&format!("{name} ")));
        let value = shown.and_then(|part| between(part, "(", ")").pop_last());
        let Some(value) = value.filter(|value| {
            value
                .bytes()
                .all(|b| b.is_ascii_digit() || b == b'.' || b == b'-')
        }) else {
            continue;
        };
        assert!(
            item.contains(value),
            "--{name}: {value} is not in the manual:\n{item}"
        );
    }
}
