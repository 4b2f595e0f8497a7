//! What was evaluated for one prompt and is not evaluated again for the next.

use crate::harness::tiny::Architecture;
use crate::harness::{Bridge, Directory, Tiny, completed};

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

#[test]
fn what_is_kept_while_a_prompt_is_looked_up_does_not_come_in_its_place() {
    let home = Directory::new();
    // Where a text has an X, every further byte is an exclamation mark.
    let model = Tiny::carousel().remember(b'X', b'!').context(8192);
    let model = model.write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["--parallel", "3", "-c", "8192"]);
    let mut client = bridge.connect();
    let ask = |prompt: &str, more: &str| format!(r#"{{"prompt":"{prompt}",{more}}}"#);
    let marked = "X12345678901234567890";
    let plain = "y12345678901234567890";
    // Kept outside of the context: first the marked text, then the plain one.
    client.generate(&ask(marked, r#""max_tokens":1"#));
    client.generate(&ask(plain, r#""max_tokens":1"#));
    let long = ask("a", r#""max_tokens":6000,"stream":true"#);
    client.ask(&format!("GENERATE {long}"));
    client.piece();
    client.ask(&format!("GENERATE {}", ask("b", r#""max_tokens":6000"#)));
    // Beside the long texts there is one place. A longer marked text, evaluated anew, leaves it
    // to one that begins like the plain one: the marked one is now kept in place of the first.
    let longer = ask(
        &format!("{marked}1234567890"),
        r#""max_tokens":1,"cache_prompt":false"#,
    );
    client.ask(&format!("GENERATE {longer}"));
    let begins_like = ask(&format!("{plain}a"), r#""max_tokens":3"#);
    client.ask(&format!("GENERATE {begins_like}"));
    for _ in 0..2 {
        assert_eq!(client.answer().completion_tokens, 6000);
    }
    assert_eq!(client.answer().text, "!");
    let answer = client.answer();
    assert_eq!((answer.text.as_str(), answer.cached_tokens), ("bcd", 22));
}
