//! Random sessions, whose every reply is foretold by a model of the protocol in Python, beside this file:
//! it was written from the manual, and shares no line with the bridge.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::tiny::Architecture;
use crate::harness::{Directory, Tiny, program};

/// Names seeds and requests for another run: `SEED[-LAST]:REQUESTS`, as many requests for each seed.
const OTHER_RUN: &str = "LLAMA_CPP_BRIDGE_SESSIONS";
/// The seeds of every run, 20 of 100 requests.
const SEEDS: &str = "1-20:100";
/// One more, whose thousand requests are sent without waiting for a reply.
const DEEP: &str = "28:1000";

/// A model, and what it says after each byte.
struct Known {
    name: &'static str,
    tiny: Tiny,
    chains: Vec<&'static [u8]>,
}

/// The byte that some of them cannot compute with.
const POISON: u8 = b'!';

const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz";

/// The models: texts with an end and without, in each of llama.cpp's ways to remember, in characters of
/// several bytes, and in such as JSON escapes or UTF-8 does not have.
fn models() -> Vec<Known> {
    let known = |name, chains: &[&'static [u8]]| Known {
        name,
        tiny: Tiny::mute(),
        chains: chains.to_vec(),
    };
    let round: &[&[u8]] = &[ALPHABET, b"za"];
    let mut models = vec![
        known("alphabet", &[ALPHABET]),
        known("carousel", round),
        known("sliding", round),
        known("recurrent", round),
        known("poisoned", round),
        known(
            "odd",
            &[
                "a\"\\\n\t\u{1}\u{7f}é→😀b/ c\rd".as_bytes(),
                b"q\xffrs\xf1t",
                b"uv\xf1",
            ],
        ),
    ];
    for model in &mut models {
        let mut tiny = model.tiny.clone();
        for pair in model.chains.iter().flat_map(|chain| chain.windows(2)) {
            tiny = tiny.follow(pair[0], pair[1]);
        }
        model.tiny = match model.name {
            "sliding" => tiny.architecture(Architecture::SlidingWindow),
            "recurrent" => tiny.architecture(Architecture::Recurrent),
            "poisoned" => tiny.poison(POISON),
            _ => tiny,
        };
    }
    models
}

/// Writes the models, and what is known of them.
fn write_models(directory: &Path) {
    let mut list = String::from("{");
    for model in models() {
        let name = model.name;
        model.tiny.write(directory.join(format!("{name}.gguf")));
        let pairs = model.chains.iter().flat_map(|chain| chain.windows(2));
        let pairs: Vec<String> = pairs
            .map(|pair| format!("[{},{}]", pair[0], pair[1]))
            .collect();
        let comma = if list.len() > 1 { "," } else { "" };
        let poison = match name {
            "poisoned" => POISON.to_string(),
            _ => "null".to_string(),
        };
        let pairs = pairs.join(",");
        write!(
            list,
            r#"{comma}"{name}":{{"pairs":[{pairs}],"poison":{poison}}}"#
        )
        .expect("memory");
    }
    list.push('}');
    fs::write(directory.join("models.json"), list).expect("it can be written");
}

/// Runs sessions of these seeds.
fn run(seeds: &str) {
    let home = Directory::new();
    write_models(home.path());
    let sessions = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/proofs/sessions.py");
    let output = Command::new("python3")
        .arg(sessions)
        .arg(program())
        .arg(home.path())
        .arg(seeds)
        .output()
        .expect("python3 can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("requests as foretold"), "{text}\n{errors}");
}

#[test]
fn every_reply_of_a_random_session_is_foretold() {
    match std::env::var(OTHER_RUN) {
        Ok(seeds) => run(&seeds),
        Err(_) => run(SEEDS),
    }
}

#[test]
fn every_reply_to_a_thousand_requests_sent_together_is_foretold() {
    run(DEEP);
}
