//! EMBED: vectors of length 1, beside the prompt cache; and models that can do nothing else.

use miniserde::{Deserialize, json};

use crate::harness::bert::{self, BEGIN, CONTEXT, EMBEDDING, Pooling, SEPARATOR};
use crate::harness::{Bridge, Client, Directory, Tiny, failure, loaded, process, smollm2_or_skip};

/// What `EMBED` answers.
#[derive(Deserialize)]
struct Embedding {
    embedding: Vec<f64>,
    prompt_tokens: u64,
}

/// The embedding of a text, which must have length 1, and its tokens.
fn embed(client: &mut Client, text: &str) -> (Vec<f64>, u64) {
    client.ask_netstring(&format!("EMBED {text}"));
    let line = client.receive();
    let start = r#"{"status":"ok","message":"Embedding completed","embedding":["#;
    let reply: Option<Embedding> = json::from_str(&line).ok();
    let Some(reply) = reply.filter(|_| line.starts_with(start)) else {
        client.fail("expected an embedding");
    };
    assert!(line.ends_with(&format!(r#"],"prompt_tokens":{}}}"#, reply.prompt_tokens)));
    let length = dot(&reply.embedding, &reply.embedding).sqrt();
    assert!((length - 1.0).abs() < 1e-5, "length {length}");
    (reply.embedding, reply.prompt_tokens)
}

/// Of two vectors of length 1: how alike they are.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn expect_near(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    let near = found
        .iter()
        .zip(expected)
        .all(|(a, b)| (a - b).abs() < 2e-3);
    assert!(near, "{found:?}\nis not\n{expected:?}");
}

#[test]
fn an_embedding_is_the_mean_over_the_tokens_unless_the_model_says_otherwise() {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    // Of this model a token's vector is one-hot, at 3 for the byte 0. The text begins with <s>.
    let (found, tokens) = embed(&mut client, "aab");
    let mut expected = vec![0.0; 288];
    for (token, count) in [(1, 1.0), (3 + 97, 2.0), (3 + 98, 1.0)] {
        expected[token] = count / 6.0_f64.sqrt();
    }
    expect_near(&found, &expected);
    assert_eq!(tokens, 4);
}

#[test]
fn the_same_text_has_the_same_embedding_whatever_came_between() {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["-n", "4"]);
    let mut client = bridge.connect();
    let first = embed(&mut client, "some text");
    embed(
        &mut client,
        "another one, and much longer ".repeat(10).trim(),
    );
    client.generate(r#"{"prompt":"some text"}"#);
    assert_eq!(embed(&mut client, "some text"), first);
}

#[test]
fn texts_in_flight_have_the_embeddings_that_they_have_one_by_one() {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    // Of one token and of many, more than a batch takes together, and one that is refused.
    let texts: Vec<String> = (1..=20_u8)
        .map(|n| char::from(b'a' + n).to_string().repeat(usize::from(n) * 20))
        .collect();
    let alone: Vec<(Vec<f64>, u64)> = texts.iter().map(|text| embed(&mut client, text)).collect();
    let long = "a".repeat(600);
    for text in &texts {
        client.send(format!("EMBED {text}\nEMBED {long}\n"));
    }
    for (vector, tokens) in alone {
        let reply: Embedding = json::from_str(&client.receive()).expect("an embedding");
        expect_near(&reply.embedding, &vector);
        assert_eq!(reply.prompt_tokens, tokens);
        client.expect_error("context_exceeded");
    }
}

#[test]
fn embedding_leaves_the_prompt_cache_as_it_is() {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["-n", "3"]);
    let mut client = bridge.connect();
    client.generate(r#"{"prompt":"abcdefgh"}"#);
    for text in ["abcdefgh", "quite another text", "abcx"] {
        embed(&mut client, text);
        let answer = client.generate(r#"{"prompt":"abcdefgh"}"#);
        assert_eq!((answer.cached_tokens, answer.prompt_tokens), (8, 9));
        assert_eq!(answer.text, "ijk");
    }
}

#[test]
fn a_text_may_fill_the_context_and_not_a_token_more_whatever_the_batch() {
    let home = Directory::new();
    let model = Tiny::carousel().context(2048).write(home.join("tiny.gguf"));
    for (batch, limit) in [("16", 512), ("1024", 600), ("1", 256)] {
        let context = limit.to_string();
        let bridge = Bridge::with_model(&home, &model, &["-b", batch, "-c", &context]);
        let mut client = bridge.connect();
        // One token begins every text.
        let (_, tokens) = embed(&mut client, &"a".repeat(limit - 1));
        assert_eq!(tokens as usize, limit);
        let message = format!(
            "Text of {} tokens exceeds the context of {limit} tokens",
            limit + 1
        );
        client.exchange(
            &format!("EMBED {}", "a".repeat(limit)),
            &failure("context_exceeded", &message),
        );
    }
}

/// The embedding of a text of 300 tokens by a model that pools so, evaluated `at_a_time`.
fn long_embedding(pooling: Pooling, at_a_time: &str) -> Vec<f64> {
    let home = Directory::new();
    let model = Tiny::carousel()
        .pooling(pooling)
        .write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["--ubatch-size", at_a_time]);
    let text = format!("{}{}", "a".repeat(200), "z".repeat(99));
    let (found, tokens) = embed(&mut bridge.connect(), &text);
    assert_eq!(tokens, 300);
    found
}

#[test]
fn a_text_that_is_evaluated_in_parts_is_pooled_as_a_whole() {
    let one_hot = |places: &[(usize, f64)]| {
        let mut vector = vec![0.0; 288];
        for (token, count) in places {
            vector[*token] = *count;
        }
        let length = dot(&vector, &vector).sqrt();
        vector
            .iter()
            .map(|value| value / length)
            .collect::<Vec<f64>>()
    };
    // Of this model a token's vector is one-hot, at 3 for the byte 0. The text begins with <s>.
    let (a, z) = (3 + 97, 3 + 122);
    for at_a_time in ["512", "300", "299", "64", "7", "1"] {
        let embedding = |pooling| long_embedding(pooling, at_a_time);
        let mean = one_hot(&[(1, 1.0), (a, 200.0), (z, 99.0)]);
        expect_near(&embedding(Pooling::Mean), &mean);
        expect_near(&embedding(Pooling::First), &one_hot(&[(1, 1.0)]));
        expect_near(&embedding(Pooling::Last), &one_hot(&[(z, 1.0)]));
    }
}

#[test]
fn what_a_long_text_took_of_memory_is_given_back() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    embed(&mut client, "a");
    let child = bridge.model_process();
    let before = process::memory(child);
    let (_, tokens) = embed(&mut client, &"life ".repeat(600));
    assert!(tokens > 600, "{tokens} tokens");
    let kept = process::memory(child).saturating_sub(before) >> 20;
    // The logits alone take 118 MB, twice.
    assert!(kept < 60, "{kept} MiB more than before");
}

#[test]
fn a_long_text_after_a_short_one_and_the_reverse() {
    let home = Directory::new();
    let model = Tiny::carousel().context(2048).write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    let long = "ab".repeat(700);
    let first = [embed(&mut client, "ab"), embed(&mut client, &long)];
    assert_eq!(first[1].1, 1401);
    let second = [embed(&mut client, "ab"), embed(&mut client, &long)];
    expect_near(&first[0].0, &second[0].0);
    expect_near(&first[1].0, &second[1].0);
}

#[test]
fn what_cannot_be_embedded_is_an_error() {
    let home = Directory::new();
    let model = Tiny::alphabet().poison(b'~').write(home.join("tiny.gguf"));
    let bridge = Bridge::start(&home, &["--temp", "0"]);
    let mut client = bridge.connect();
    client.exchange("EMBED", &failure("bad_request", "No text provided"));
    client.exchange("EMBED a", &failure("no_model", "No model loaded"));
    client.load(&model);
    let (first, _) = embed(&mut client, "a");
    client.ask("EMBED ~");
    client.expect_error("internal");
    expect_near(&embed(&mut client, "a").0, &first);
}

/// The embedding of a text of words by a model of BERT's kind is what it must be.
fn check_bert(pooling: Pooling) {
    let home = Directory::new();
    let model = bert::write(home.join("bert.gguf"), pooling);
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    for text in ["red", "red sea", "green blue green sea", "sea red"] {
        let mut tokens = vec![BEGIN];
        tokens.extend(text.split(' ').map(bert::token_of));
        tokens.push(SEPARATOR);
        let (found, count) = embed(&mut client, text);
        assert_eq!(count as usize, tokens.len());
        expect_near(&found, &bert::embedding(&tokens, pooling));
    }
}

#[test]
fn a_bert_that_pools_the_mean_does_so() {
    check_bert(Pooling::Mean);
}

#[test]
fn a_bert_that_pools_the_first_token_does_so() {
    check_bert(Pooling::First);
}

#[test]
fn a_bert_that_pools_the_last_token_does_so() {
    check_bert(Pooling::Last);
}

#[test]
fn a_model_that_can_only_embed_says_so_to_every_other_request() {
    let home = Directory::new();
    let model = bert::write(home.join("bert.gguf"), Pooling::Mean);
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.exchange(&format!("LOAD {}", model.display()), loaded());
    let message = "The model can only embed; use EMBED";
    for request in [
        "INFER red",
        "STREAM red",
        "CHAT red",
        r#"GENERATE {"prompt":"red"}"#,
    ] {
        client.exchange(request, &failure("unsupported", message));
    }
    let (vector, tokens) = embed(&mut client, "red sea");
    assert_eq!((vector.len(), tokens), (EMBEDDING, 4));
    let words = vec!["sea"; CONTEXT as usize - 1].join(" ");
    let message = "Text of 65 tokens exceeds the context of 64 tokens";
    client.exchange(
        &format!("EMBED {words}"),
        &failure("context_exceeded", message),
    );
}

#[test]
fn a_real_model_finds_like_texts_alike() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = Bridge::with_model(&home, &model, &["-n", "1"]);
    let mut client = bridge.connect();
    let (cat, _) = embed(&mut client, "The cat sleeps on the sofa.");
    let (kitten, _) = embed(&mut client, "A kitten is sleeping on the couch.");
    let (tax, _) = embed(&mut client, "Income tax rates changed in 1974.");
    assert_eq!(cat.len(), 576);
    assert!(dot(&cat, &kitten) > dot(&cat, &tax));
    assert_eq!(embed(&mut client, "The cat sleeps on the sofa.").0, cat);
}
