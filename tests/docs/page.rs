//! What the tests of the pages share: where the pages are, and their parts.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use llama_cpp_bridge::shared::ranges::Limit;

pub(super) fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(super) fn program_manual() -> String {
    read("man/llama-cpp-bridge.1")
}

pub(super) fn protocol_manual() -> String {
    read("man/llama-cpp-bridge.7")
}

/// Every manual page in `man/`.
pub(crate) fn pages() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let entries = fs::read_dir(directory).expect("the manuals can be listed");
    let paths = entries.map(|entry| entry.expect("it can be listed").path());
    let pages: Vec<PathBuf> = paths.filter(|path| path.is_file()).collect();
    assert!(pages.len() >= 7, "{pages:?}");
    pages
}

/// The name of a file.
pub(crate) fn name(path: &Path) -> &str {
    let name = path.file_name().and_then(|name| name.to_str());
    name.expect("its name is UTF-8")
}

/// What stands between `before` and `after`, everywhere in `text`.
pub(super) fn between<'a>(text: &'a str, before: &str, after: &str) -> BTreeSet<&'a str> {
    let parts = text.split(before).skip(1);
    parts
        .filter_map(|part| part.split_once(after))
        .map(|(found, _)| found)
        .collect()
}

/// The part of a page under a heading.
pub(super) fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let start = format!("\n.Sh {heading}\n");
    let (_, rest) = page
        .split_once(&start)
        .unwrap_or_else(|| panic!("no section {heading}"));
    rest.split("\n.Sh ").next().unwrap_or(rest)
}

/// The first words behind a macro at the start of a line.
pub(super) fn items<'a>(page: &'a str, start: &str) -> BTreeSet<&'a str> {
    let rests = page.lines().filter_map(|line| line.strip_prefix(start));
    rests
        .filter_map(|rest| rest.split_whitespace().next())
        .collect()
}

/// The bridge's own sources; those of the client program have a page of their own.
pub(super) fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory)
        .expect("the sources can be listed")
        .flatten();
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.path()) {
        match path.is_dir() {
            true if path.ends_with("bin") => {}
            true => files.extend(sources(&path)),
            false => files.push(path),
        }
    }
    files
}

/// The item of a page that has these words at its beginning, up to the next item.
pub(super) fn item<'a>(page: &'a str, start: &str) -> &'a str {
    let named = |item: &&str| {
        let line = item.lines().next().unwrap_or_default();
        format!(", {line} ").contains(&format!(", {start} "))
    };
    let found = page.split("\n.It ").skip(1).find(named);
    found.unwrap_or_else(|| panic!("no item {start}"))
}

/// The range of a limit as the pages write it.
pub(super) fn range(limit: &Limit) -> String {
    format!("{} to {}", limit.low, limit.high).replace('-', "\\-")
}
