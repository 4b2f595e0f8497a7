//! The fuzz targets without a fuzzer: each is given its seeds, and inputs that are made of them the
//! same way in every run. `tests/fuzz/README.md` says how to fuzz.

mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::harness::Random;

/// Inputs that are made of the seeds of a target.
const INPUTS: usize = 4000;

/// Bytes that the seeds of all targets may have.
const ALL_SEEDS: usize = 200_000;

/// Where the seeds are.
fn folder(name: &str) -> PathBuf {
    let seeds = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds");
    seeds.join(name)
}

/// The seeds of a target, in the order of their names.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder(name)).expect("each target has seeds");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.sort();
    let read = |path: &PathBuf| fs::read(path).expect("a seed can be read");
    paths.iter().map(read).collect()
}

/// Shows an input if its check panics.
struct Shown<'a>(&'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the input is b\"{}\"", self.0.escape_ascii());
        }
    }
}

/// One of the seeds, changed at a few places.
fn changed(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        let end = (at + random.below(9)).min(input.len());
        match random.below(6) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..end)),
            2 => input.insert(at, random.below(256) as u8),
            3 if at < input.len() => input[at] ^= 1 << random.below(8),
            4 => input.extend_from_within(at..end),
            _ => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                input.truncate(at);
                input.extend(&other[from..]);
            }
        }
    }
    input
}

/// Gives a target its seeds, and what is made of them.
fn run(name: &str) {
    let found = targets::ALL.iter().find(|(known, _)| *known == name);
    let (_, check) = found.expect("it is a target");
    let seeds = seeds(name);
    let mut random = Random::new(1);
    for seed in &seeds {
        let _shown = Shown(seed);
        check(seed);
    }
    for _ in 0..INPUTS {
        let input = changed(&mut random, &seeds);
        let _shown = Shown(&input);
        check(&input);
    }
}

#[test]
fn requests_are_the_same_however_they_are_cut() {
    run("framing");
}

#[test]
fn what_is_taken_for_json_is_json() {
    run("json");
}

#[test]
fn a_grammar_is_refused_at_its_line_and_taken_within_its_limits() {
    run("gbnf");
}

#[test]
fn a_schema_makes_a_grammar_of_json() {
    run("schema");
}

#[test]
fn a_message_of_the_wire_is_read_as_it_was_written() {
    run("wire");
}

#[test]
fn no_message_makes_a_special_token() {
    run("templates");
}

#[test]
fn a_state_that_was_changed_is_not_read() {
    run("states");
}

#[test]
fn each_target_has_seeds_and_all_of_them_are_small() {
    let entries = fs::read_dir(folder("")).expect("there are seeds");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let names: BTreeSet<String> = names.map(|n| n.to_string_lossy().into_owned()).collect();
    let targets = targets::ALL.map(|(name, _)| name.to_string());
    assert_eq!(names, BTreeSet::from(targets.clone()));
    let bytes = targets
        .iter()
        .flat_map(|name| seeds(name))
        .map(|seed| seed.len());
    assert!(bytes.sum::<usize>() < ALL_SEEDS);
}
