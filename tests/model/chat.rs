//! CHAT and `messages`: chat templates rendered as the Python library transformers does it, and
//! what a user wrote kept apart from what the template adds.
//!
//! A rendered text never leaves the bridge. That it is the expected one is seen in the prompt
//! cache: the same text sent as a prompt has just as many tokens, all of them evaluated before.

use std::path::{Path, PathBuf};

use crate::harness::{Bridge, Client, Directory, Tiny, quoted, run};

/// The text that begins every prompt of the tiny model.
const BOS: &str = "<s>";

/// The path of one of the templates beside this file.
fn template(name: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model/templates");
    let path = directory.join(format!("{name}.jinja"));
    path.to_str().expect("UTF-8").to_string()
}

/// A bridge with a tiny model of bytes, and a chat template.
fn bridge_with(home: &Directory, path: &str) -> Bridge {
    let model = Tiny::carousel().context(4096).write(home.join("tiny.gguf"));
    Bridge::with_model(home, &model, &["--chat-template-file", path, "-n", "0"])
}

/// The same with a template that the test itself writes.
fn bridge_with_source(home: &Directory, source: &str) -> Bridge {
    let path: PathBuf = home.join("template.jinja");
    std::fs::write(&path, source).expect("a template can be written");
    bridge_with(home, path.to_str().expect("UTF-8"))
}

/// The object of a conversation.
fn conversation(turns: &[(&str, &str)]) -> String {
    let turn = |(role, content): &(&str, &str)| {
        format!(r#"{{"role":"{role}","content":{}}}"#, quoted(content))
    };
    let turns: Vec<String> = turns.iter().map(turn).collect();
    format!(r#"{{"messages":[{}]}}"#, turns.join(","))
}

/// Expects that a conversation is rendered to this text. Each byte is a token of this model, but
/// for `<s>` and `</s>`, which are one each.
fn expect_rendered(client: &mut Client, turns: &[(&str, &str)], text: &str) {
    let rendered = client.generate(&conversation(turns));
    let without_bos = text.strip_prefix(BOS).unwrap_or(text);
    let prompt = format!(r#"{{"prompt":{}}}"#, quoted(without_bos));
    let same = client.generate(&prompt);
    if same.cached_tokens + 1 < same.prompt_tokens {
        let known = without_bos.as_bytes();
        let known = &known[..known.len().min(same.cached_tokens as usize)];
        client.fail(&format!(
            "the rendered text differs near the end of {:?}",
            String::from_utf8_lossy(known)
        ));
    }
    assert_eq!(rendered.prompt_tokens, same.prompt_tokens, "{text:?}");
}

/// A conversation with all roles, and blanks around what is said.
const CONVERSATION: [(&str, &str); 4] = [
    ("system", "Be brief."),
    ("user", " Is it \"far\"? "),
    ("assistant", " No.\n"),
    ("user", "How far, in \u{20ac}?\n\nTell me."),
];

#[test]
fn chatml_is_rendered() {
    let home = Directory::new();
    let bridge = bridge_with(&home, &template("chatml"));
    let mut client = bridge.connect();
    expect_rendered(
        &mut client,
        &CONVERSATION,
        "<|im_start|>system\nBe brief.<|im_end|>\n\
        <|im_start|>user\n Is it \"far\"? <|im_end|>\n\
        <|im_start|>assistant\n No.\n<|im_end|>\n\
        <|im_start|>user\nHow far, in \u{20ac}?\n\nTell me.<|im_end|>\n\
        <|im_start|>assistant\n",
    );
    expect_rendered(
        &mut client,
        &[("user", "")],
        "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n",
    );
}

#[test]
fn smollm2_is_rendered() {
    let home = Directory::new();
    let bridge = bridge_with(&home, &template("smollm2"));
    let mut client = bridge.connect();
    expect_rendered(
        &mut client,
        &[("user", "Hi {{ messages }} {% raw %}")],
        "<|im_start|>system\n\
        You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
        <|im_start|>user\nHi {{ messages }} {% raw %}<|im_end|>\n\
        <|im_start|>assistant\n",
    );
    expect_rendered(
        &mut client,
        &CONVERSATION[..2],
        "<|im_start|>system\nBe brief.<|im_end|>\n\
        <|im_start|>user\n Is it \"far\"? <|im_end|>\n\
        <|im_start|>assistant\n",
    );
}

/// Today in the way of llama 3's template, by `date`.
fn today() -> String {
    let date = run(std::process::Command::new("date")
        .env("LC_ALL", "C")
        .arg("+%d %b %Y"));
    date.output.trim().to_string()
}

#[test]
fn llama_3_is_rendered_with_the_date() {
    let home = Directory::new();
    let bridge = bridge_with(&home, &template("llama-3"));
    let mut client = bridge.connect();
    let mut before = today();
    loop {
        client.generate(&conversation(&CONVERSATION));
        let after = today();
        if before == after {
            break;
        }
        before = after;
    }
    let head = |system: &str| {
        format!(
            "<s><|start_header_id|>system<|end_header_id|>\n\n\
            Cutting Knowledge Date: December 2023\nToday Date: {before}\n\n{system}<|eot_id|>"
        )
    };
    let rest = "<|start_header_id|>user<|end_header_id|>\n\nIs it \"far\"?<|eot_id|>\
        <|start_header_id|>assistant<|end_header_id|>\n\nNo.<|eot_id|>\
        <|start_header_id|>user<|end_header_id|>\n\nHow far, in \u{20ac}?\n\nTell me.<|eot_id|>\
        <|start_header_id|>assistant<|end_header_id|>\n\n";
    let text = format!("{}{rest}", head("Be brief."));
    expect_rendered(&mut client, &CONVERSATION, &text);
    let text = format!("{}{rest}", head(""));
    expect_rendered(&mut client, &CONVERSATION[1..], &text);
}

#[test]
fn gemma_is_rendered_and_refuses_what_it_does_not_know() {
    let home = Directory::new();
    let bridge = bridge_with(&home, &template("gemma"));
    let mut client = bridge.connect();
    expect_rendered(
        &mut client,
        &CONVERSATION[1..],
        "<s><start_of_turn>user\nIs it \"far\"?<end_of_turn>\n\
        <start_of_turn>model\nNo.<end_of_turn>\n\
        <start_of_turn>user\nHow far, in \u{20ac}?\n\nTell me.<end_of_turn>\n\
        <start_of_turn>model\n",
    );
    client.expect_refusal(
        &conversation(&CONVERSATION),
        "Chat template: System role not supported",
    );
    client.expect_refusal(
        &conversation(&[("user", "a"), ("user", "b")]),
        "Chat template: Conversation roles must alternate user/assistant/user/assistant/...",
    );
}

#[test]
fn mistral_is_rendered() {
    let home = Directory::new();
    let bridge = bridge_with(&home, &template("mistral"));
    let mut client = bridge.connect();
    expect_rendered(
        &mut client,
        &CONVERSATION,
        "<s>[INST]  Is it \"far\"? [/INST] No.</s>\
        [INST] Be brief.\n\nHow far, in \u{20ac}?\n\nTell me.[/INST]",
    );
    expect_rendered(&mut client, &[("user", "a")], "<s>[INST] a[/INST]");
    client.expect_refusal(
        &conversation(&[("assistant", "a")]),
        "Chat template: After the optional system message, conversation roles must alternate \
        user/assistant/user/assistant/...",
    );
}

#[test]
fn qwen_is_rendered_without_what_was_thought_before() {
    let home = Directory::new();
    let bridge = bridge_with(&home, &template("qwen"));
    let thoughtful = [
        ("system", "Be brief."),
        ("user", "Why?"),
        ("assistant", "<think>\nHm.\n</think>\n\nBecause."),
        ("user", "Oh."),
    ];
    expect_rendered(
        &mut bridge.connect(),
        &thoughtful,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n\
        <|im_start|>assistant\nBecause.<|im_end|>\n<|im_start|>user\nOh.<|im_end|>\n\
        <|im_start|>assistant\n",
    );
}

#[test]
fn phi_3_is_rendered() {
    let home = Directory::new();
    let bridge = bridge_with(&home, &template("phi-3"));
    expect_rendered(
        &mut bridge.connect(),
        &CONVERSATION,
        "<|system|>\nBe brief.<|end|>\n<|user|>\n Is it \"far\"? <|end|>\n\
        <|assistant|>\n No.\n<|end|>\n<|user|>\nHow far, in \u{20ac}?\n\nTell me.<|end|>\n\
        <|assistant|>\n",
    );
}

#[test]
fn pythons_methods_and_jinjas_filters_are_there() {
    let home = Directory::new();
    let bridge = bridge_with(&home, &template("python"));
    let text = "strip=[Mixed Case, of some words] lstrip=[Mixed Case, of some words  ] \
        rstrip=[  Mixed Case, of some words]\n\
        chars=[a|axx|xxa]\n\
        case=[AB CD|ab cd|Ab Cd|Ab cd]\n\
        split=[a+b+c|b,c|2]\n\
        ends=[True|False|True]\n\
        find=[1|3|2|-1]\n\
        replace=[xbxb|xbab] join=[a-b]\n\
        lines=[a/b] tests=[True|True|True]\n\
        items=[one:1;two:2;] keys=[one,two]\n\
        get=[2|none|True] values=[1,2]\n\
        list=[2|321|el]\n\
        json=[{\"a\": [1, true, null, \"\u{e9}\\\"\"]}]\n\
        loop=[0134]\n\
        macro=[abab!cc?] tests=[True|True|True|False]\n\
        filters=[user|1|a|AB|1a|12]\n\
        if=[yes] in=[True|True|True] tokens=[</s>]";
    expect_rendered(&mut bridge.connect(), &[("user", "hello")], text);
}

#[test]
fn tojson_escapes_only_what_json_must() {
    let home = Directory::new();
    let bridge = bridge_with_source(&home, "{{ messages[0].content | tojson }}");
    let text = "<a href='b'> & \"c\"\\\n\u{e9}";
    let rendered = r#""<a href='b'> & \"c\"\\\n"#.to_string() + "\u{e9}\"";
    expect_rendered(&mut bridge.connect(), &[("user", text)], &rendered);
}

#[test]
fn a_template_of_its_own_begins_the_text_once_if_it_does_so_itself() {
    let home = Directory::new();
    let with = bridge_with_source(&home, "{{ bos_token }}{{ messages[0].content }}");
    let answer = with.connect().generate(&conversation(&[("user", "abc")]));
    assert_eq!(answer.prompt_tokens, 4);
    let home = Directory::new();
    let without = bridge_with_source(&home, "{{ messages[0].content }}");
    let mut client = without.connect();
    let answer = client.generate(&conversation(&[("user", "abc")]));
    assert_eq!(answer.prompt_tokens, 4);
    // What the user wrote does not count: these are three letters, behind a true beginning.
    let answer = client.generate(&conversation(&[("user", "<s>abc")]));
    assert_eq!(answer.prompt_tokens, 7);
}
