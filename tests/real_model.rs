//! SmolLM2, whose answers make sense: what no made-up model can show.

use crate::harness::{Bridge, Client, Directory, process, smollm2_or_skip};

/// The text of the answer to `INFER` of this prompt.
fn infer(client: &mut Client, prompt: &str) -> String {
    client.ask_netstring(&format!("INFER {prompt}"));
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

#[test]
fn a_real_model_gives_a_sensible_answer() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = Bridge::with_model(&home, &model, &["-n", "12"]);
    let mut client = bridge.connect();
    let answer = infer(&mut client, "The capital of France is");
    assert!(answer.contains("Paris"), "{answer:?}");
    let answer = infer(&mut client, "One, two, three, four,");
    assert!(answer.starts_with(" five, six, seven"), "{answer:?}");
}

#[test]
fn a_real_models_greedy_text_is_always_the_same() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let prompts = [
        "The capital of France is",
        "The capital of Spain is",
        "Water boils at",
        "def main():\n",
    ];
    let answers = |order: &[usize]| {
        let bridge = Bridge::with_model(&home, &model, &["-n", "24"]);
        let mut client = bridge.connect();
        let mut answers = vec![String::new(); prompts.len()];
        for &number in order {
            answers[number] = infer(&mut client, prompts[number]);
        }
        answers
    };
    assert_eq!(answers(&[0, 1, 2, 3]), answers(&[3, 0, 2, 1]));
}

#[test]
fn a_real_models_chat_tokens_are_special_in_a_prompt() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = Bridge::with_model(&home, &model, &["-n", "100"]);
    let prompt =
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n";
    let answer = infer(&mut bridge.connect(), prompt);
    // The model ends its turn by itself, and the token that says so is not part of the text.
    assert!(answer.contains("Paris"), "{answer:?}");
    assert!(!answer.contains("<|im_"), "{answer:?}");
}

#[test]
fn a_real_models_evaluated_prompt_is_used_again() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = Bridge::with_model(&home, &model, &["-n", "1"]);
    let mut client = bridge.connect();
    let child = bridge.model_process();
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(40);
    let mut ticks_for = |prompt: &str| {
        let before = process::ticks(child);
        infer(&mut client, prompt);
        process::ticks(child) - before
    };
    let first = ticks_for(&text);
    let again = ticks_for(&text);
    let longer = ticks_for(&format!("{text}The quick"));
    assert!(
        again * 3 < first && longer * 3 < first,
        "{first}, then {again} and {longer} ticks"
    );
}
