//! The lists in the pages: verbs, codes, fields, variables and statuses, as the code has them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::page::{
    between, item, items, program_manual, protocol_manual, range, read, section, sources,
};
use crate::harness::{Bridge, Directory, verbs};
use llama_cpp_bridge::shared::ranges;

#[test]
fn every_verb_stands_in_the_manual_and_the_reverse() {
    let manual = protocol_manual();
    let described = items(section(&manual, "VERBS"), ".Ss ").into_iter();
    assert_eq!(
        described.map(String::from).collect::<BTreeSet<_>>(),
        verbs()
    );
}

#[test]
fn every_error_code_stands_in_the_manual_and_the_reverse() {
    let code = read("src/shared/failure.rs");
    let (_, rest) = code
        .split_once("enum Code {")
        .expect("the codes are an enum");
    let (variants, _) = rest.split_once("\n}").expect("the enum ends");
    let codes = between(variants, "rename = \"", "\"");
    assert!(codes.len() >= 11, "the codes were not found: {codes:?}");
    assert_eq!(
        items(section(&protocol_manual(), "ERROR CODES"), ".It Cm "),
        codes
    );
}

#[test]
fn every_environment_variable_stands_in_the_manual_and_the_reverse() {
    let mut used = BTreeSet::new();
    for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let code = fs::read_to_string(file).expect("a source can be read");
        for prefix in [
            "LLAMA_CPP_BRIDGE_",
            "GLIBC_",
            "GOMP_",
            "OMP_",
            "JOURNAL_",
            "LISTEN_",
            "NOTIFY_",
            "WATCHDOG_",
        ] {
            let names = between(&code, &format!("\"{prefix}"), "\"");
            // The names of a library's functions begin alike, and have small letters.
            let names = names
                .into_iter()
                .filter(|name| !name.contains(char::is_lowercase));
            used.extend(names.map(|name| format!("{prefix}{name}")));
        }
        if code.contains("env::temp_dir()") {
            used.insert("TMPDIR".to_string());
        }
    }
    let page = program_manual();
    let documented = items(section(&page, "ENVIRONMENT"), ".It Ev ");
    let documented: BTreeSet<String> = documented.into_iter().map(String::from).collect();
    assert!(!used.is_empty(), "the variables were not found");
    assert_eq!(documented, used);
}

/// What the page says of GENERATE.
fn generate(page: &str) -> &str {
    let (_, rest) = page.split_once("\n.Ss GENERATE\n").expect("it is there");
    rest.split("\n.Ss ").next().unwrap_or(rest)
}

#[test]
fn the_ranges_of_the_fields_of_generate_stand_in_the_manual() {
    let page = protocol_manual();
    let page = generate(&page);
    for limit in ranges::ALL {
        let limit = match limit.field {
            "seed" => &ranges::SEED_FIELD,
            _ => limit,
        };
        let item = item(page, &format!("Cm {}", limit.field));
        let kind = if limit.whole {
            "whole number"
        } else {
            "number"
        };
        let takes = format!("\nA {kind} from {}", range(limit));
        let rest = item.split_once(&takes).map(|(_, rest)| rest);
        assert!(
            rest.is_some_and(|rest| rest.starts_with([';', ','])),
            "{item}"
        );
    }
}

#[test]
fn the_fields_of_generate_stand_in_the_manual_and_the_reverse() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.ask(r#"GENERATE {"":1}"#);
    let message = client.expect_error("bad_request");
    let (_, known) = message
        .split_once("the fields are ")
        .expect("they are told");
    let page = protocol_manual();
    let documented: Vec<&str> = generate(&page)
        .lines()
        .filter_map(|line| line.strip_prefix(".It Cm "))
        .collect();
    assert_eq!(documented.join(", "), known);
}

#[test]
fn every_exit_status_stands_in_the_manual() {
    let page = program_manual();
    let statuses = items(section(&page, "EXIT STATUS"), ".It ");
    assert_eq!(statuses, BTreeSet::from(["0", "1", "2"]));
}
