//! The names of the parts of a split model.

use std::fs;

/// The file at this path and the further parts of one that is split, as far as they are there.
pub fn parts(path: &str) -> Vec<String> {
    let there = further_parts(path).take_while(|part| fs::metadata(part).is_ok());
    std::iter::once(path.to_string()).chain(there).collect()
}

/// The paths of the second and further parts of a split model, by the name of its first. The form
/// of the names is llama.cpp's (`llama_split_path`).
pub fn further_parts(path: &str) -> impl Iterator<Item = String> {
    let split = path
        .strip_suffix(".gguf")
        .and_then(|stem| stem.rsplit_once("-00001-of-"))
        .filter(|(_, count)| count.len() == 5 && count.bytes().all(|digit| digit.is_ascii_digit()));
    let (name, count) = split.unwrap_or_default();
    let parts: u32 = count.parse().unwrap_or(1);
    (2..=parts).map(move |part| format!("{name}-{part:05}-of-{count}.gguf"))
}
