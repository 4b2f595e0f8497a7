//! Where an answer ends, what it is made of, and what cannot be answered.

use crate::harness::{Bridge, Client, Directory, Tiny, completed, failure};

#[test]
fn text_ends_where_the_model_ends_it() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    client.exchange("INFER t", &completed("uvwxyz"));
    client.exchange("INFER z", &completed(""));
}

#[test]
fn text_ends_after_max_tokens() {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    for (max_tokens, text) in [("5", "bcdef"), ("1", "b"), ("0", "")] {
        let bridge = Bridge::with_model(&home, &model, &["-n", max_tokens]);
        bridge.connect().exchange("INFER a", &completed(text));
    }
}

#[test]
fn text_ends_after_256_tokens_unless_told_otherwise() {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let alphabet: String = ('a'..='z').cycle().skip(1).take(256).collect();
    bridge.connect().exchange("INFER a", &completed(&alphabet));
}

#[test]
fn text_ends_when_the_context_is_full() {
    let home = Directory::new();
    let model = Tiny::carousel().context(512).write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["--max-tokens", "-1"]);
    let mut client = bridge.connect();
    for prompt in [1, 100, 510] {
        client.ask(&format!("INFER {}", "a".repeat(prompt)));
        let reply = client.receive();
        // The first token of the context begins the text; the last token of the answer is never
        // evaluated, so it needs no room.
        let text: String = ('a'..='z').cycle().skip(1).take(512 - prompt).collect();
        if reply != completed(&text) {
            client.fail(&format!("expected {} characters", text.len()));
        }
    }
}

#[test]
fn a_prompt_may_fill_the_context_and_not_a_token_more() {
    let home = Directory::new();
    let model = Tiny::carousel().context(512).write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["--max-tokens", "1"]);
    let mut client = bridge.connect();
    // With the token that begins every text.
    client.exchange(&format!("INFER {}", "a".repeat(511)), &completed("b"));
    for letters in [512, 5000] {
        let message = format!(
            "Prompt of {} tokens exceeds the context of 512 tokens",
            letters + 1
        );
        client.exchange(
            &format!("INFER {}", "a".repeat(letters)),
            &failure("context_exceeded", &message),
        );
    }
    client.exchange("INFER a", &completed("b"));
}

#[test]
fn the_context_is_at_most_what_was_asked_for_and_at_most_the_models_own() {
    let home = Directory::new();
    let model = Tiny::carousel().context(6000).write(home.join("tiny.gguf"));
    let prompt = format!("INFER {}", "a".repeat(9000));
    // llama.cpp itself would round 300 up.
    for (asked, context) in [
        ("300", 300),
        ("512", 512),
        ("4096", 4096),
        ("0", 6000),
        ("6000", 6000),
        ("100000", 6000),
    ] {
        let bridge = Bridge::with_model(&home, &model, &["--ctx-size", asked]);
        let message = format!("Prompt of 9001 tokens exceeds the context of {context} tokens");
        bridge
            .connect()
            .exchange(&prompt, &failure("context_exceeded", &message));
    }
    let bridge = Bridge::with_model(&home, &model, &[]);
    let message = "Prompt of 9001 tokens exceeds the context of 4096 tokens";
    bridge
        .connect()
        .exchange(&prompt, &failure("context_exceeded", message));
}

#[test]
fn characters_of_several_bytes_are_whole() {
    let home = Directory::new();
    let model = Tiny::mute()
        .chain("a\u{e9}\u{20ac}\u{1f600}")
        .write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    client.exchange("INFER a", &completed("\u{e9}\u{20ac}\u{1f600}"));
}

#[test]
fn a_text_cut_inside_a_character_is_valid_utf8() {
    let home = Directory::new();
    let model = Tiny::mute()
        .chain("a\u{e9}\u{1f600}")
        .write(home.join("tiny.gguf"));
    // As in llama-server, U+FFFD stands for the character whose end is missing.
    let texts = [
        "\u{fffd}",
        "\u{e9}",
        "\u{e9}\u{fffd}",
        "\u{e9}\u{fffd}",
        "\u{e9}\u{fffd}",
    ];
    for (tokens, text) in (1..).zip(texts) {
        let bridge = Bridge::with_model(&home, &model, &["-n", &format!("{tokens}")]);
        bridge.connect().exchange("INFER a", &completed(text));
    }
}

#[test]
fn bytes_that_are_no_utf8_are_replaced() {
    let home = Directory::new();
    // The byte 0xa9 without the one before it, then text again.
    let model = Tiny::mute().follow(b'a', 0xa9).follow(0xa9, b'b');
    let bridge = Bridge::with_model(&home, &model.write(home.join("tiny.gguf")), &[]);
    bridge
        .connect()
        .exchange("INFER a", &completed("\u{fffd}b"));
}

#[test]
fn a_prompt_of_characters_of_several_bytes_reaches_the_model() {
    let home = Directory::new();
    let model = Tiny::mute()
        .chain("\u{e9}\u{1f600}!")
        .write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    bridge
        .connect()
        .exchange("INFER caf\u{e9}", &completed("\u{1f600}!"));
}

#[test]
fn a_prompts_text_for_a_special_token_is_that_token() {
    let home = Directory::new();
    let model = Tiny::carousel().chain(">!").context(256);
    let bridge = Bridge::with_model(&home, &model.write(home.join("tiny.gguf")), &["-n", "1"]);
    let mut client = bridge.connect();
    // After the token </s> this model says nothing; after the letter > it says "!".
    client.exchange("INFER a</s>", &completed(""));
    client.exchange("INFER a</t>", &completed("!"));
    // One token each, or the prompt would not fit.
    client.exchange(&format!("INFER {}a", "</s>".repeat(254)), &completed("b"));
}

#[test]
fn the_token_that_begins_a_text_is_added_once() {
    let home = Directory::new();
    let model = Tiny::carousel().context(256).write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let message = "Prompt of 257 tokens exceeds the context of 256 tokens";
    let prompt = format!("INFER {}", "a".repeat(256));
    bridge
        .connect()
        .exchange(&prompt, &failure("context_exceeded", message));
}

#[test]
fn values_that_are_not_numbers_are_an_error_and_not_an_empty_answer() {
    let home = Directory::new();
    let model = Tiny::alphabet().poison(b'~').write(home.join("tiny.gguf"));
    // Without flash attention, what stays in the cache is multiplied by zero, and NaN is still NaN.
    for flash_attention in ["on", "off"] {
        let bridge = Bridge::with_model(&home, &model, &["--flash-attn", flash_attention]);
        let mut client = bridge.connect();
        client.exchange("INFER abcx", &completed("yz"));
        for prompt in ["INFER ~", "INFER abc~def", "INFER ~ and more"] {
            client.ask(prompt);
            expect_internal(&mut client);
        }
        // What was computed from them is not used again.
        client.exchange("INFER abcx", &completed("yz"));
        client.exchange("INFER y", &completed("z"));
    }
}

#[test]
fn values_that_are_not_numbers_in_the_middle_of_an_answer_are_an_error() {
    let home = Directory::new();
    let model = Tiny::alphabet().poison(b'x').write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    client.ask("INFER u");
    expect_internal(&mut client);
    client.exchange("INFER y", &completed("z"));
}

fn expect_internal(client: &mut Client) {
    let reply = client.receive();
    let error = reply.starts_with(r#"{"status":"error","message":""#);
    if !(error && reply.ends_with(r#"","code":"internal"}"#)) {
        client.fail("expected an error with the code internal");
    }
}
