//! Requests that are worked on together: each gets what it would have got alone.

use crate::harness::tiny::Architecture;
use crate::harness::{Bridge, Client, Directory, Tiny, failure, quoted};

/// A model of which every letter may be followed by any of three, so that a text depends on the
/// seed and on every letter before it; and in which an X can be noticed ever after.
pub(crate) fn wanderer(architecture: Architecture) -> Tiny {
    let letters = "abcdefghijklmnopqrstuvwxyz";
    let model = Tiny::mute().architecture(architecture);
    letters
        .bytes()
        .fold(model, |model, letter| {
            [1, 5, 11].iter().fold(model, |model, step| {
                model.follow(letter, b'a' + (letter - b'a' + step) % 26)
            })
        })
        .remember(b'X', b'Z')
}

/// Prompts of which some begin alike, one is the beginning of another, and some have an X.
fn prompts() -> Vec<String> {
    let shared = "these all begin alike, with more than is worth waiting for ";
    let mut prompts: Vec<String> = (b'a'..=b'f')
        .map(|letter| format!("{shared}{0}{0}{0}", char::from(letter)))
        .collect();
    prompts.push(format!("{shared}X, and then a"));
    prompts.push("short b".into());
    prompts.push("Xc".into());
    prompts.push(format!("{shared}aaa and goes on to z"));
    prompts.push("quite another text, as long as the rest of them is, with an m".into());
    prompts.push("short be".into());
    prompts
}

/// An object for `GENERATE` at temperature 1, with more fields.
pub(crate) fn object(prompt: &str, seed: usize, max_tokens: usize, fields: &str) -> String {
    let prompt = quoted(prompt);
    format!(
        r#"{{"prompt":{prompt},"seed":{seed},"temperature":1,"max_tokens":{max_tokens}{fields}}}"#
    )
}

/// The texts of these objects, asked for one by one, with nothing left of the one before.
pub(crate) fn one_by_one(client: &mut Client, objects: &[String]) -> Vec<String> {
    let alone = |object: &String| {
        let object = object.replace("\"seed\"", "\"cache_prompt\":false,\"seed\"");
        client.generate(&object).text
    };
    objects.iter().map(alone).collect()
}

/// The texts of these objects, all asked for before the first is answered.
pub(crate) fn at_once(client: &mut Client, objects: &[String]) -> Vec<String> {
    let requests = objects.iter().map(|object| format!("GENERATE {object}\n"));
    client.send(requests.collect::<String>());
    let mut texts = Vec::new();
    for _ in objects {
        let answer = client.answer();
        if !answer.pieces.is_empty() {
            assert_eq!(answer.pieces.concat(), answer.text);
        }
        texts.push(answer.text);
    }
    texts
}

fn check_texts(architecture: Architecture) {
    let home = Directory::new();
    let model = wanderer(architecture).write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    let objects: Vec<String> = prompts()
        .iter()
        .enumerate()
        .map(|(seed, prompt)| {
            let stream = format!(r#","stream":{}"#, seed % 2 == 0);
            object(prompt, seed, 5 + 7 * (seed % 5), &stream)
        })
        .collect();
    let texts = one_by_one(&mut client, &objects);
    assert_eq!(at_once(&mut client, &objects), texts);
    // And with all of it cached.
    assert_eq!(at_once(&mut client, &objects), texts);
}

#[test]
fn requests_in_flight_give_the_texts_that_they_give_one_by_one() {
    check_texts(Architecture::Llama);
}

#[test]
fn a_sliding_window_is_each_requests_own() {
    check_texts(Architecture::SlidingWindow);
}

#[test]
fn a_recurrent_state_is_each_requests_own() {
    check_texts(Architecture::Recurrent);
}

#[test]
fn what_does_not_fit_the_context_together_waits_and_is_not_cut() {
    let home = Directory::new();
    let model = wanderer(Architecture::Llama).write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["--ctx-size", "256"]);
    let mut client = bridge.connect();
    // Two fit when they begin, and neither of them with what the other generates.
    let objects: Vec<String> = ('a'..='f')
        .map(|letter| {
            let prompt = letter.to_string().repeat(40);
            object(&prompt, 3, 150, r#","stream":true"#)
        })
        .collect();
    let texts = one_by_one(&mut client, &objects);
    assert!(texts.iter().all(|text| text.len() == 150));
    assert_eq!(at_once(&mut client, &objects), texts);
}

#[test]
fn what_never_fits_the_context_fails_alone() {
    let home = Directory::new();
    let model = wanderer(Architecture::Llama).write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["--ctx-size", "256"]);
    let mut client = bridge.connect();
    let fits = object("abc", 1, 20, "");
    let text = client.generate(&fits).text;
    let long = object(&"q".repeat(300), 1, 5, "");
    client.send(format!(
        "GENERATE {fits}\nGENERATE {long}\nGENERATE {fits}\n"
    ));
    assert_eq!(client.answer().text, text);
    client.expect(&failure(
        "context_exceeded",
        "Prompt of 301 tokens exceeds the context of 256 tokens",
    ));
    assert_eq!(client.answer().text, text);
}

#[test]
fn a_value_that_is_no_number_fails_the_request_that_it_comes_from_alone() {
    let home = Directory::new();
    let model = wanderer(Architecture::Llama).poison(b'~');
    let model = model.write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    let good: Vec<String> = (0..6)
        .map(|seed| {
            let prompt = prompts()[seed].clone() + &"k".repeat(70);
            object(&prompt, seed, 40, "")
        })
        .collect();
    let texts = one_by_one(&mut client, &good);
    let bad = object(&"~ in a prompt of many tokens ".repeat(4), 1, 5, "");
    for _ in 0..2 {
        let requests = good
            .iter()
            .map(|g| format!("GENERATE {g}\nGENERATE {bad}\n"));
        client.send(requests.collect::<String>());
        for text in &texts {
            assert_eq!(client.answer().text, *text);
            client.expect(&failure(
                "internal",
                "The model computed values that are not finite numbers",
            ));
        }
    }
}

#[test]
fn conversations_that_alternate_are_all_kept() {
    let home = Directory::new();
    let model = wanderer(Architecture::Llama).write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["--ctx-size", "256"]);
    let mut client = bridge.connect();
    let mut texts: Vec<String> = [
        "the first of three",
        "another one, longer",
        "and a third of them",
    ]
    .map(String::from)
    .into();
    let mut lengths = [0; 3];
    for _ in 0..4 {
        for (text, length) in texts.iter_mut().zip(&mut lengths) {
            let answer = client.generate(&object(text, 1, 10, ""));
            // All that was said before, but for the last token, which was not evaluated.
            assert!(*length == 0 || answer.cached_tokens == *length);
            *length = answer.prompt_tokens + 9;
            *text += &answer.text;
            *text += "abc";
        }
    }
}
