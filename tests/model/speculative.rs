//! --spec-ngram: tokens guessed from what stands before, and the text, which is the same.

use crate::harness::tiny::Architecture;
use crate::harness::{Answer, Bridge, Directory, Tiny, smollm2_or_skip};

const GUESSING: &[&str] = &["--spec-ngram", "16"];

/// The answers to these objects, without guessing and with it.
fn both(tiny: &Tiny, objects: &[String]) -> [Vec<Answer>; 2] {
    [&[][..], GUESSING].map(|options| {
        let home = Directory::new();
        let model = tiny.write(home.join("tiny.gguf"));
        let bridge = Bridge::with_model(&home, &model, options);
        let mut client = bridge.connect();
        objects
            .iter()
            .map(|object| client.generate(object))
            .collect()
    })
}

/// All that a client can know of an answer but its pieces.
fn facts(answer: &Answer) -> (&str, &str, [u64; 3]) {
    let tokens = [
        answer.prompt_tokens,
        answer.cached_tokens,
        answer.completion_tokens,
    ];
    (&answer.text, &answer.finish_reason, tokens)
}

fn assert_same(tiny: &Tiny, objects: &[String]) {
    let [without, with] = both(tiny, objects);
    for ((without, with), object) in without.iter().zip(&with).zip(objects) {
        assert_eq!(facts(without), facts(with), "{object}");
    }
}

#[test]
fn a_text_that_repeats_itself_is_guessed() {
    let object = r#"{"prompt":"a","max_tokens":400,"stream":true}"#.to_string();
    let [without, with] = both(&Tiny::carousel(), &[object]);
    assert_eq!(facts(&without[0]), facts(&with[0]));
    assert_eq!(with[0].pieces.concat(), with[0].text);
    // Tokens that are evaluated together become known together.
    assert_eq!(without[0].pieces.len(), 400);
    assert!(with[0].pieces.len() < 300, "{}", with[0].pieces.len());
}

#[test]
fn guesses_end_where_the_text_ends() {
    let objects = [
        r#""max_tokens":0"#,
        r#""max_tokens":1"#,
        r#""max_tokens":99"#,
        r#""max_tokens":100"#,
        r#""max_tokens":-1"#,
        r#""max_tokens":300,"stop":"zabcdefg!""#,
        r#""max_tokens":300,"stop":["xyzab","bcdex"]"#,
        r#""max_tokens":300,"grammar":"root ::= [a-z]{100}""#,
        r#""max_tokens":300,"grammar":"root ::= [a-z]{70} \"qq\" [a-z]{70}""#,
        r#""max_tokens":300,"ignore_eos":true,"repeat_penalty":1.1"#,
    ]
    .map(|fields| {
        let prompt = "abcdefghijklmnopqrstuvwxyz".repeat(3);
        format!(r#"{{"prompt":"{prompt}",{fields}}}"#)
    });
    assert_same(&Tiny::carousel(), &objects);
}

#[test]
fn what_is_drawn_is_drawn_as_without_guesses() {
    let dice = "abcd"
        .bytes()
        .fold(Tiny::mute(), |model, byte| model.choice(byte, "aaab"));
    let mut prompt = "abab".to_string();
    let objects: Vec<String> = (1..=8)
        .map(|seed| {
            // Each goes on with the text of the one before, which the cache still has.
            prompt.push_str("ab");
            format!(r#"{{"prompt":"{prompt}","seed":{seed},"temperature":1,"max_tokens":-1}}"#)
        })
        .collect();
    assert_same(&dice, &objects);
}

#[test]
fn several_requests_guess_each_for_itself() {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, GUESSING);
    let mut client = bridge.connect();
    for first in ['a', 'k', 'x'] {
        client.ask(&format!(
            r#"GENERATE {{"prompt":"{first}","max_tokens":120}}"#
        ));
    }
    let letters = "abcdefghijklmnopqrstuvwxyz".repeat(6);
    for first in ['a', 'k', 'x'] {
        let start = (u32::from(first) - u32::from('a')) as usize + 1;
        assert_eq!(client.answer().text, letters[start..start + 120]);
    }
}

#[test]
fn a_state_that_cannot_be_cut_is_not_guessed_on() {
    let recurrent = Tiny::carousel().architecture(Architecture::Recurrent);
    let object = r#"{"prompt":"a","max_tokens":100,"stream":true}"#.to_string();
    let [without, with] = both(&recurrent, &[object]);
    assert_eq!(facts(&without[0]), facts(&with[0]));
    assert_eq!(with[0].pieces.len(), 100);
}

#[test]
fn a_real_model_writes_the_same_text_with_guesses() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    // Texts of whose next token the model is so sure that no rounding changes it.
    let copied = "Seven grey geese flew over the old mill. ".repeat(4);
    let counted = "one, two, three, four, five, six, seven, eight, nine, ten, ".repeat(3);
    let code = "print(a[0])\nprint(a[1])\nprint(a[2])\nprint(a[3])\n".to_string();
    let [without, with] = [&[][..], GUESSING].map(|options| {
        let home = Directory::new();
        let bridge = Bridge::with_model(&home, &model, options);
        let mut client = bridge.connect();
        [&copied, &counted, &code].map(|prompt| {
            let prompt = crate::harness::quoted(prompt.trim_end());
            let fields = r#""max_tokens":40,"temperature":0"#;
            client.generate(&format!(r#"{{"prompt":{prompt},{fields}}}"#))
        })
    });
    for (without, with) in without.iter().zip(&with) {
        assert_eq!(facts(without), facts(with));
    }
    // How early one of the texts ends depends on the processor's rounding.
    let written: u64 = with.iter().map(|done| done.completion_tokens).sum();
    assert!(written > 30, "{with:?}");
}
