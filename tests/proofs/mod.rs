//! Proofs that take many turns: requests, signals and failures at random moments, with fixed seeds.

mod crowds;
mod interruptions;
mod scarcity;
mod sessions;

/// So many letters of a carousel after this one.
fn text(letter: u8, count: usize) -> String {
    let letters = ('a'..='z').cycle();
    letters
        .skip(usize::from(letter - b'a') + 1)
        .take(count)
        .collect()
}
