//! Proofs that take many turns: requests, signals and failures at random moments, with fixed seeds.

mod crowds;
mod interruptions;
mod scarcity;
mod sessions;
