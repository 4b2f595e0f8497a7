//! Sampling as the options of the bridge say.

use std::collections::BTreeSet;

use crate::harness::{Bridge, Client, Directory, Tiny};

/// A model of which every letter of an answer is one of eight, all as likely.
fn dice() -> Tiny {
    "!abcdefgh"
        .bytes()
        .fold(Tiny::mute(), |model, byte| model.choice(byte, "abcdefgh"))
}

/// The answers to the same prompt, asked `count` times of a bridge with these options.
fn rolls(home: &Directory, options: &[&str], count: usize) -> Vec<String> {
    let model = dice().write(home.join("dice.gguf"));
    let options = [
        &["-n", "40", "--model", model.to_str().expect("UTF-8")],
        options,
    ]
    .concat();
    let bridge = Bridge::start(home, &options);
    let mut client = bridge.connect();
    (0..count).map(|_| answer(&mut client, "INFER !")).collect()
}

fn answer(client: &mut Client, request: &str) -> String {
    client.ask(request);
    let reply = client.receive();
    let start = r#"{"status":"ok","message":"Inference completed","data":""#;
    match reply
        .strip_prefix(start)
        .and_then(|rest| rest.strip_suffix("\"}"))
    {
        Some(text) => text.to_string(),
        None => client.fail("expected an answer"),
    }
}

fn different(answers: &[String]) -> usize {
    answers.iter().collect::<BTreeSet<_>>().len()
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let home = Directory::new();
    let first = rolls(&home, &["--seed", "7"], 3);
    let second = rolls(&home, &["--seed", "7"], 1);
    assert_eq!(different(&first), 1, "{first:?}");
    assert_eq!(first[0], second[0]);
    assert_eq!(first[0].len(), 40);
}

#[test]
fn different_seeds_give_different_texts() {
    let home = Directory::new();
    let seeds = ["0", "1", "2147483648", "4294967294"];
    let texts: Vec<String> = seeds
        .iter()
        .map(|s| rolls(&home, &["--seed", s], 1).remove(0))
        .collect();
    assert_eq!(different(&texts), seeds.len(), "{texts:?}");
}

#[test]
fn the_seed_is_random_unless_given() {
    let home = Directory::new();
    let texts = rolls(&home, &[], 4);
    assert_eq!(different(&texts), 4, "{texts:?}");
    let texts = rolls(&home, &["--seed", "-1"], 4);
    assert_eq!(different(&texts), 4, "{texts:?}");
}

#[test]
fn temperature_zero_is_greedy() {
    let home = Directory::new();
    let texts = rolls(&home, &["--temp", "0"], 4);
    assert_eq!(different(&texts), 1, "{texts:?}");
}

#[test]
fn one_token_to_choose_from_is_greedy() {
    let home = Directory::new();
    let greedy = rolls(&home, &["--temp", "0"], 1);
    for options in [["--top-k", "1"], ["--top-p", "0"]] {
        let texts = rolls(&home, &options, 3);
        assert_eq!(different(&texts), 1, "{options:?}: {texts:?}");
        assert_eq!(texts[0].len(), greedy[0].len());
    }
}

/// After `!`, an `a` that is likelier than `b`.
fn likely_and_unlikely() -> Tiny {
    Tiny::mute()
        .weigh(b'!', b'a', 2.0)
        .weigh(b'!', b'b', 1.9)
        .chain("a!")
        .chain("b!")
}

#[test]
fn min_p_keeps_what_is_likely_enough() {
    let home = Directory::new();
    let model = likely_and_unlikely().write(home.join("tiny.gguf"));
    let texts = |min_p: &str| {
        let model = model.to_str().expect("UTF-8");
        let options = [
            "-n", "200", "--seed", "1", "--temp", "1", "--top-k", "0", "--top-p", "1",
        ];
        let options = [&options[..], &["--model", model, "--min-p", min_p]].concat();
        answer(&mut Bridge::start(&home, &options).connect(), "INFER !")
    };
    // Weights of 2.0 and 1.9 make logits 1.7 apart: `b` is a sixth as likely as `a`.
    assert!(texts("0").contains('b'));
    assert!(!texts("0.5").contains('b'));
    assert!(texts("0.5").contains('a'));
}

#[test]
fn a_repeated_token_is_penalised() {
    let home = Directory::new();
    let model = likely_and_unlikely().write(home.join("tiny.gguf"));
    let text = |options: &[&str]| {
        let bridge = Bridge::with_model(&home, &model, &[&["-n", "3"], options].concat());
        answer(&mut bridge.connect(), "INFER a!")
    };
    assert_eq!(text(&[]), "a!a");
    assert_eq!(text(&["--repeat-penalty", "1.5"])[..1], *"b");
    assert_eq!(
        text(&["--repeat-penalty", "1.5", "--repeat-last-n", "0"]),
        "a!a"
    );
    assert_eq!(
        text(&["--repeat-penalty", "1.5", "--repeat-last-n", "1"])[..1],
        *"a"
    );
    assert_eq!(
        text(&["--repeat-penalty", "1.5", "--repeat-last-n", "-1"])[..1],
        *"b"
    );
}
