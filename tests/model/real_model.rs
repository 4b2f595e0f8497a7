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

/// A penalty too small to change a logit, for which the samplers need to see every token and not
/// only the likeliest.
const NO_PENALTY: &str = r#","presence_penalty":1e-30"#;

#[test]
fn the_likeliest_tokens_decide_as_all_of_them_would() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    for fields in [
        r#""temperature":0"#,
        r#""temperature":0,"ignore_eos":true"#,
        r#""temperature":1,"seed":1"#,
        r#""temperature":1.5,"top_k":300,"top_p":1,"min_p":0,"seed":2"#,
        r#""temperature":1,"ignore_eos":true,"seed":3"#,
        r#""temperature":0,"json_schema":{"type":"object"}"#,
        r#""temperature":1,"json_schema":{"type":"object"},"seed":4"#,
        r#""temperature":1,"grammar":"root ::= \"<\" [a-z]+ \"!\"","seed":5"#,
        r#""temperature":1,"grammar":"root ::= [é-ÿ]+","seed":6"#,
    ] {
        let mut text = |more: &str| {
            let start = r#"{"prompt":"Once upon a time","max_tokens":32,"#;
            client.generate(&format!("{start}{fields}{more}}}")).text
        };
        assert_eq!(text(""), text(NO_PENALTY), "{fields}");
    }
}
