//! The fuzz targets under libFuzzer: the environment variable `FUZZ_TARGET` names the one that this
//! process runs.

#![no_main]

mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

/// What each input is given to.
static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

/// The target that the environment names.
fn named() -> fn(&[u8]) {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = targets::ALL.iter().find(|(known, _)| *known == name);
    let names = targets::ALL.map(|(known, _)| known).join(", ");
    found
        .unwrap_or_else(|| panic!("FUZZ_TARGET names one of {names}"))
        .1
}

fuzz_target!(|input: &[u8]| TARGET.get_or_init(named)(input));
