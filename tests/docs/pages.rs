//! Every page in `man/`: clean, and named by another one.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use super::page::{name, pages, section};
use crate::harness::{run, skip};

#[test]
fn the_manuals_are_clean() {
    if Command::new("mandoc")
        .arg("-T")
        .arg("lint")
        .arg("/dev/null")
        .output()
        .is_err()
    {
        return skip("there is no mandoc to check the manuals with");
    }
    for page in pages() {
        let mut lint = Command::new("mandoc");
        let ended = run(lint.args(["-T", "lint", "-W", "warning"]).arg(&page));
        assert_eq!(
            ended.code,
            Some(0),
            "{}: {}{}",
            page.display(),
            ended.output,
            ended.errors
        );
    }
}

#[test]
fn every_manual_is_named_by_another_one_and_names_only_what_exists() {
    let all: BTreeSet<String> = pages()
        .iter()
        .map(|path| name(path).replace('.', " "))
        .collect();
    let mut named = BTreeSet::new();
    for path in pages() {
        let page = fs::read_to_string(&path).expect("the page can be read");
        for heading in ["NAME", "DESCRIPTION", "SEE ALSO"] {
            section(&page, heading);
        }
        let own = name(&path).replace('.', " ");
        let references = |text: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(".Xr "));
            let names = lines.map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "));
            names.collect::<BTreeSet<String>>()
        };
        let ours =
            |name: &String| name.starts_with("llama-cpp-bridge") || name.starts_with("llambo ");
        for reference in references(&page).iter().filter(|name| ours(name)) {
            assert!(all.contains(reference), "{own} names {reference}");
        }
        named.extend(
            references(section(&page, "SEE ALSO"))
                .into_iter()
                .filter(|name| *name != own),
        );
    }
    let unnamed: Vec<&String> = all.difference(&named).collect();
    assert!(unnamed.is_empty(), "no SEE ALSO names {unnamed:?}");
}
