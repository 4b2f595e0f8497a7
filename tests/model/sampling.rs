//! Sampling as each GENERATE asks for it: seeds, the samplers and their order, penalties.

use std::collections::BTreeSet;

use crate::harness::{Bridge, Client, Directory, Tiny};

/// A model of which every letter of an answer is one of eight, all as likely.
fn dice(home: &Directory, options: &[&str]) -> Bridge {
    let model = "!abcdefgh"
        .bytes()
        .fold(Tiny::mute(), |model, byte| model.choice(byte, "abcdefgh"));
    Bridge::with_model(home, &model.write(home.join("dice.gguf")), options)
}

/// Answers to `!` with these fields, one for each seed.
fn rolls(client: &mut Client, fields: &str, seeds: impl IntoIterator<Item = u32>) -> Vec<String> {
    let mut roll = |seed: u32| {
        let answer = client.generate(&format!(
            r#"{{"prompt":"!","temperature":1,"max_tokens":32,"seed":{seed}{fields}}}"#
        ));
        assert_eq!(answer.seed, u64::from(seed));
        answer.text
    };
    seeds.into_iter().map(&mut roll).collect()
}

fn different(answers: &[String]) -> usize {
    answers.iter().collect::<BTreeSet<_>>().len()
}

/// Seeds at the ends of their range; the last one is llama.cpp's own word for "random".
const SEEDS: [u32; 6] = [0, 1, 1 << 31, (1 << 31) + 1, u32::MAX - 1, u32::MAX];

#[test]
fn the_same_seed_gives_the_same_text_whatever_came_between() {
    let home = Directory::new();
    let bridge = dice(&home, &[]);
    let mut client = bridge.connect();
    let first = rolls(&mut client, "", SEEDS);
    let second = rolls(&mut client, "", SEEDS);
    assert_eq!(first, second);
    let other_home = Directory::new();
    let other = dice(&other_home, &[]);
    assert_eq!(rolls(&mut other.connect(), "", SEEDS), first);
}

#[test]
fn seeds_keep_all_their_bits() {
    let home = Directory::new();
    let bridge = dice(&home, &[]);
    // llama.cpp takes the last one for "random", so it is the same as the one before.
    let texts = rolls(&mut bridge.connect(), "", SEEDS);
    assert_eq!(different(&texts), SEEDS.len() - 1, "{texts:?}");
    assert_eq!(texts[4], texts[5]);
}

#[test]
fn a_seed_that_is_not_given_is_drawn_and_told() {
    let home = Directory::new();
    let bridge = dice(&home, &[]);
    let mut client = bridge.connect();
    let request = r#"{"prompt":"!","temperature":1,"max_tokens":32}"#;
    let answers = [client.generate(request), client.generate(request)];
    assert_ne!(answers[0].seed, answers[1].seed);
    assert_ne!(answers[0].text, answers[1].text);
    for answer in answers {
        let again = rolls(&mut client, "", [answer.seed as u32]);
        assert_eq!(again, [answer.text]);
    }
}

#[test]
fn one_token_to_choose_from_is_greedy() {
    let home = Directory::new();
    let bridge = dice(&home, &[]);
    let mut client = bridge.connect();
    for fields in [r#","top_k":1"#, r#","top_p":0"#] {
        let texts = rolls(&mut client, fields, 0..4);
        assert_eq!(different(&texts), 1, "{fields}: {texts:?}");
    }
    // All are as likely, so min-p takes none away.
    let texts = rolls(&mut client, r#","min_p":0.99"#, 0..4);
    assert_eq!(different(&texts), 4, "{texts:?}");
}

#[test]
fn a_request_can_be_greedy_where_the_bridge_is_not_and_the_reverse() {
    let home = Directory::new();
    let bridge = dice(&home, &["--temp", "1"]);
    let mut client = bridge.connect();
    let greedy = rolls(&mut client, "", [1]);
    let mut greedy_text = |seed: u32| {
        let request = format!(r#"{{"prompt":"!","temperature":0,"max_tokens":32,"seed":{seed}}}"#);
        client.generate(&request).text
    };
    assert_eq!(greedy_text(1), greedy_text(2));
    assert_ne!(greedy, [greedy_text(3)]);
}

/// How many of the answers to `!` begin with each of a, b, c and d.
///
/// Of this model's logits `a` is the highest, and `b`, `c` and `d` are each `step` below the one
/// before.
fn first_letters(step: f32, fields: &str) -> [usize; 4] {
    let home = Directory::new();
    let weigh = |model: Tiny, (at, next): (usize, u8)| {
        // A weight counts seventeen times: the square root of the embedding's length, 288.
        model.weigh(b'!', next, 2.0 - at as f32 * step / 16.970_562)
    };
    let model = (0..).zip(*b"abcd").fold(Tiny::mute(), weigh);
    let bridge = Bridge::with_model(&home, &model.write(home.join("tiny.gguf")), &[]);
    let mut client = bridge.connect();
    let mut counts = [0; 4];
    for seed in 0..60 {
        let defaults = r#""top_k":0,"top_p":1,"min_p":0,"max_tokens":1"#;
        let mut object = format!(r#"{{"prompt":"!","seed":{seed},{fields}"#);
        for field in defaults.split(',') {
            let name = field.split(':').next().expect("it has a name");
            if !fields.contains(name) {
                object.push(',');
                object.push_str(field);
            }
        }
        object.push('}');
        let text = client.generate(&object).text;
        let letter = text.bytes().next().expect("it is not empty");
        counts[usize::from(letter - b'a')] += 1;
    }
    counts
}

#[test]
fn temperature_flattens_what_is_likely() {
    // Of four letters with logits 2 apart, the first has 86 of 100 at temperature 1.
    let [a, b, c, d] = first_letters(2.0, r#""temperature":1"#);
    assert!(a > 40 && a > b && b + c + d > 0, "{:?}", [a, b, c, d]);
    let cold = first_letters(2.0, r#""temperature":0.1"#);
    assert_eq!(cold, [60, 0, 0, 0]);
    // By these a logit is divided to more than a number can hold.
    for cold in ["1e-29", "1e-31", "1e-37", "1e-40", "1e-45", "1e-300"] {
        let letters = first_letters(2.0, &format!(r#""temperature":{cold}"#));
        assert_eq!(letters, [60, 0, 0, 0], "{cold}");
    }
    let [a, b, c, d] = first_letters(2.0, r#""temperature":30,"top_k":4"#);
    assert!(a < 35 && b > 5 && c > 5 && d > 5, "{:?}", [a, b, c, d]);
}

#[test]
fn top_k_top_p_and_min_p_each_take_the_unlikely_away() {
    let flat = 0.01;
    let [a, b, c, d] = first_letters(flat, r#""temperature":1"#);
    assert!(a > 5 && b > 5 && c > 5 && d > 5, "{:?}", [a, b, c, d]);
    let [a, b, c, d] = first_letters(flat, r#""temperature":1,"top_k":2"#);
    assert!(a > 5 && b > 5 && c + d == 0, "{:?}", [a, b, c, d]);
    let [a, b, c, d] = first_letters(flat, r#""temperature":1,"top_p":0.6"#);
    assert!(a > 5 && b > 5 && c > 5 && d == 0, "{:?}", [a, b, c, d]);
    // Each is 0.37 times as likely as the one before.
    let [a, b, c, d] = first_letters(1.0, r#""temperature":1,"min_p":0.2"#);
    assert!(a > 5 && b > 5 && c + d == 0, "{:?}", [a, b, c, d]);
}

#[test]
fn the_samplers_come_in_llama_cpps_order() {
    // Top-k before top-p: of the two that top-k leaves, one alone has more than half.
    let [a, b, c, d] = first_letters(0.3, r#""temperature":1,"top_k":2,"top_p":0.5"#);
    assert!(a == 60, "{:?}", [a, b, c, d]);
    let [a, b, c, d] = first_letters(0.3, r#""temperature":1,"top_p":0.5"#);
    assert!(a > 5 && b > 5 && c + d == 0, "{:?}", [a, b, c, d]);
    // Temperature last: at this one all are as likely, were it before min-p or top-p.
    for field in [r#""min_p":0.2"#, r#""top_p":0.8"#] {
        let counts = first_letters(1.0, &format!(r#""temperature":1000,{field}"#));
        assert!(counts[0] > 5 && counts[1] > 5, "{field}: {counts:?}");
        assert_eq!(counts[2..], [0, 0], "{field}");
    }
    // Penalties first: top-k leaves only what is likeliest after them.
    let penalised = first_letters(1.0, r#""temperature":1,"top_k":1,"presence_penalty":-2"#);
    assert_eq!(penalised, [60, 0, 0, 0]);
}

/// After `!`, an `a` whose logit is 1.7 above that of `b`.
fn likely_and_unlikely(home: &Directory) -> Bridge {
    let model = Tiny::mute()
        .weigh(b'!', b'a', 2.0)
        .weigh(b'!', b'b', 1.9)
        .chain("a!")
        .chain("b!");
    Bridge::with_model(home, &model.write(home.join("tiny.gguf")), &[])
}

#[test]
fn penalties_change_what_is_likeliest() {
    let home = Directory::new();
    let bridge = likely_and_unlikely(&home);
    let mut client = bridge.connect();
    let mut first = |prompt: &str, fields: &str| {
        let object = format!(r#"{{"prompt":"{prompt}","temperature":0,"max_tokens":1{fields}}}"#);
        client.generate(&object).text
    };
    assert_eq!(first("a!", ""), "a");
    // Divides a positive logit, here 34.
    assert_eq!(first("a!", r#","repeat_penalty":1.5"#), "b");
    assert_eq!(first("a!", r#","repeat_penalty":1.04"#), "a");
    assert_eq!(first("b!", r#","repeat_penalty":0.5"#), "b");
    // Subtracts once, however often the token was there.
    assert_eq!(first("a!", r#","presence_penalty":1.5"#), "a");
    assert_eq!(first("aaa!", r#","presence_penalty":1.5"#), "a");
    assert_eq!(first("a!", r#","presence_penalty":2"#), "b");
    assert_eq!(first("b!", r#","presence_penalty":-2"#), "b");
    // Subtracts for each time.
    assert_eq!(first("a!", r#","frequency_penalty":1"#), "a");
    assert_eq!(first("aa!", r#","frequency_penalty":1"#), "b");
    assert_eq!(first("bb!", r#","frequency_penalty":-1"#), "b");
    // Both are as often in it.
    assert_eq!(first("aabb!", r#","frequency_penalty":1"#), "a");
}

#[test]
fn penalties_look_back_as_far_as_they_are_told() {
    let home = Directory::new();
    let bridge = likely_and_unlikely(&home);
    let mut client = bridge.connect();
    let mut first = |gap: usize, last: &str| {
        let prompt = format!("a{}", "!".repeat(gap));
        let fields = r#""presence_penalty":2,"temperature":0,"max_tokens":1"#;
        client
            .generate(&format!(r#"{{"prompt":"{prompt}",{fields}{last}}}"#))
            .text
    };
    // 64 tokens unless told otherwise.
    assert_eq!(first(63, ""), "b");
    assert_eq!(first(64, ""), "a");
    assert_eq!(first(3, r#","repeat_last_n":4"#), "b");
    assert_eq!(first(3, r#","repeat_last_n":3"#), "a");
    assert_eq!(first(1, r#","repeat_last_n":0"#), "a");
    assert_eq!(first(400, r#","repeat_last_n":-1"#), "b");
    assert_eq!(first(400, r#","repeat_last_n":1048576"#), "b");
}

#[test]
fn penalties_count_what_was_generated() {
    let home = Directory::new();
    let bridge = likely_and_unlikely(&home);
    let mut client = bridge.connect();
    let fields = r#""temperature":0,"max_tokens":7,"frequency_penalty":1"#;
    let answer = client.generate(&format!(r#"{{"prompt":"!",{fields}}}"#));
    // An a is two more penalties away than a b: a, a, then b by turns.
    assert_eq!(answer.text, "a!a!b!a");
}

#[test]
fn the_tokens_that_end_a_text_can_be_ignored() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    let mut finish = |fields: &str| {
        let object = format!(r#"{{"prompt":"x","temperature":0,"max_tokens":6{fields}}}"#);
        let answer = client.generate(&object);
        (answer.finish_reason, answer.completion_tokens)
    };
    assert_eq!(finish(""), ("stop".to_string(), 2));
    assert_eq!(finish(r#","ignore_eos":false"#), ("stop".to_string(), 2));
    assert_eq!(finish(r#","ignore_eos":true"#), ("length".to_string(), 6));
}
