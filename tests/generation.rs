//! Sampling and its options, and the cache of what was evaluated before.

use std::collections::BTreeSet;

use crate::harness::tiny::Architecture;
use crate::harness::{Bridge, Client, Directory, Tiny, completed};

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

#[test]
fn every_type_of_cache_is_accepted() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    for kind in [
        "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1",
    ] {
        let options = ["--cache-type-k", kind, "--cache-type-v", kind];
        let bridge = Bridge::with_model(&home, &model, &options);
        bridge.connect().exchange("INFER w", &completed("xyz"));
    }
}

#[test]
fn options_of_loading_are_accepted() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let all: [&[&str]; 8] = [
        &["--no-mmap"],
        &["--flash-attn", "on"],
        &["--flash-attn", "off"],
        &["--gpu-layers", "0"],
        &["--threads", "2", "--threads-batch", "2"],
        &["--batch-size", "1"],
        &["--ubatch-size", "1"],
        &["--batch-size", "16", "--ubatch-size", "32"],
    ];
    for options in all {
        let bridge = Bridge::with_model(&home, &model, options);
        bridge.connect().exchange(
            "INFER a longer prompt, of more than 16: w",
            &completed("xyz"),
        );
    }
}

/// Requests that share beginnings, and after which the cache would show if anything of one were
/// left for the next: after an X, every letter of this model is a Z.
fn play_with_the_cache(architecture: Architecture) {
    let home = Directory::new();
    let model = Tiny::carousel()
        .remember(b'X', b'Z')
        .architecture(architecture);
    let model = model.write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["-n", "4"]);
    let mut client = bridge.connect();
    let plain = "a plain beginning, ";
    let long = "of more tokens than a window ";
    for _ in 0..2 {
        client.exchange(&format!("INFER {plain}c"), &completed("defg"));
        client.exchange(&format!("INFER {plain}cX"), &completed("ZZZZ"));
        client.exchange(&format!("INFER {plain}c"), &completed("defg"));
        client.exchange(&format!("INFER {plain}X c"), &completed("ZZZZ"));
        client.exchange(&format!("INFER {plain}cd"), &completed("efgh"));
        client.exchange(&format!("INFER {plain}cde"), &completed("fghi"));
        client.exchange(&format!("INFER {plain}cde"), &completed("fghi"));
        client.exchange(
            &format!("INFER {plain}cXd{long}{long}x"),
            &completed(expected(architecture)),
        );
        client.exchange(&format!("INFER {plain}cXd"), &completed("ZZZZ"));
        client.exchange(&format!("INFER {plain}"), &completed(""));
        client.exchange("INFER q", &completed("rstu"));
    }
}

/// A window of 16 tokens has lost sight of an X that is 60 tokens back.
fn expected(architecture: Architecture) -> &'static str {
    if architecture == Architecture::SlidingWindow {
        "yzab"
    } else {
        "ZZZZ"
    }
}

#[test]
fn what_two_prompts_share_is_reused_without_a_trace() {
    play_with_the_cache(Architecture::Llama);
}

#[test]
fn a_cache_with_a_sliding_window_is_evaluated_anew_where_it_must_be() {
    play_with_the_cache(Architecture::SlidingWindow);
}

#[test]
fn a_recurrent_state_is_evaluated_anew_where_it_must_be() {
    play_with_the_cache(Architecture::Recurrent);
}

#[test]
fn a_shared_beginning_is_not_evaluated_again() {
    let home = Directory::new();
    let model = Tiny::heavy().write(home.join("heavy.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["-n", "1"]);
    let mut client = bridge.connect();
    let child = bridge.model_process();
    let mut ticks_for = |request: &str| {
        let before = crate::harness::process::ticks(child);
        client.exchange(request, &completed("b"));
        crate::harness::process::ticks(child) - before
    };
    let prompt = format!("INFER {}", "a".repeat(2000));
    let first = ticks_for(&prompt);
    let again = ticks_for(&prompt);
    let longer = ticks_for(&format!("{prompt}a"));
    // Processor time, not the clock: what the other tests do does not show in it.
    assert!(first >= 20, "the prompt is no work: {first} ticks");
    assert!(
        again * 4 < first && longer * 4 < first,
        "{first}, then {again} and {longer} ticks"
    );
}
