use std::fmt::Debug;
use std::io::Write;
use std::os::unix::net::UnixStream;

use super::{Link, Received};
use crate::shared::build::Build;
use crate::shared::failure::{Code, Failure};
use crate::shared::message::{
    Answer, Done, Embedding, FinishReason, FromModel, Generate, Part, Ready, State, ToModel, Turn,
    Work,
};
use crate::shared::settings::{FlashAttention, KvType, ModelParams, Sampling, StateFiles};
use crate::shared::wire::Message;

/// A text of everything that JSON has to escape, and more.
const TEXT: &str = "\"\\/\0\u{1}\u{1f}\n\r\t\u{7f}\u{e9}\u{2028}\u{1f600}\u{10ffff}";

fn text() -> String {
    TEXT.to_string()
}

fn build() -> Build {
    Build {
        version: text(),
        build: String::new(),
    }
}

fn model_params(flash_attn: FlashAttention, cache: KvType) -> ModelParams {
    ModelParams {
        path: text(),
        file: "/proc/self/fd/3".to_string(),
        size: u64::MAX,
        force: true,
        ctx_size: None,
        batch_size: 0,
        ubatch_size: u32::MAX,
        threads: Some(1),
        threads_batch: None,
        parallel: 2,
        spec_ngram: 3,
        gpu_layers: Some(0),
        mmap: true,
        mlock: false,
        flash_attn,
        cache_type_k: cache,
        cache_type_v: cache,
        swa_full: true,
        chat_template: Some(text()),
        state_dir: None,
        state_limit: 1 << 63,
        states: Some(StateFiles {
            directory: text(),
            scratch: text(),
            model_hash: u64::MAX,
        }),
        sandbox: false,
        verbose: true,
    }
}

fn generate() -> Generate {
    Generate {
        prompt: None,
        messages: Some(vec![
            Turn {
                role: "user".to_string(),
                content: text(),
            },
            Turn {
                role: String::new(),
                content: String::new(),
            },
        ]),
        max_tokens: i32::MIN,
        sampling: Sampling {
            temperature: 0.1,
            top_k: i32::MAX,
            top_p: f32::MIN_POSITIVE,
            min_p: f32::MAX,
            repeat_penalty: 1.0 / 3.0,
            repeat_last_n: -1,
            presence_penalty: -2.0,
            frequency_penalty: 16_777_217.0,
        },
        seed: u32::MAX,
        stop: vec![String::new(), text()],
        grammar: Some(text()),
        json_schema: None,
        stream: true,
        ignore_eos: false,
        cache_prompt: true,
    }
}

/// Every message to the model process, with values at the ends of their ranges.
fn to_model() -> Vec<ToModel> {
    let flash = [
        FlashAttention::On,
        FlashAttention::Off,
        FlashAttention::Auto,
    ];
    let caches = [
        KvType::F32,
        KvType::F16,
        KvType::Bf16,
        KvType::Q8_0,
        KvType::Q4_0,
        KvType::Q4_1,
        KvType::Iq4Nl,
        KvType::Q5_0,
        KvType::Q5_1,
    ];
    let params = caches
        .iter()
        .zip(flash.iter().cycle())
        .map(|(cache, flash)| model_params(*flash, *cache));
    let work = [
        Work::Generate(Box::new(generate())),
        Work::Embed(String::new()),
        Work::Embed(text()),
        Work::Tokenize(text()),
        Work::Detokenize(Vec::new()),
        Work::Detokenize(vec![i32::MIN, 0, i32::MAX]),
        Work::Save(text()),
        Work::Restore(text()),
    ];
    let mut all = vec![
        ToModel::Hello(build()),
        ToModel::Cancel(0),
        ToModel::Cancel(u64::MAX),
    ];
    all.extend(params.map(|params| ToModel::Load(Box::new(params))));
    all.extend(work.into_iter().map(|work| ToModel::Work(u64::MAX, work)));
    all
}

/// Every message from the model process.
fn from_model() -> Vec<FromModel> {
    let ready = Ready {
        description: text(),
        architecture: String::new(),
        parameters: u64::MAX,
        size_bytes: 0,
        context_size: u32::MAX,
        training_context_size: 0,
        embedding_size: 1,
        vocabulary_size: 2,
        chat_template: true,
        sandbox_lacks: vec![text()],
    };
    let done = |finish_reason| Done {
        text: text(),
        finish_reason,
        prompt_tokens: u32::MAX,
        cached_tokens: 0,
        completion_tokens: 1,
        prompt_ms: 1e300,
        completion_ms: 0.1,
        seed: u32::MAX,
    };
    let reasons = [
        FinishReason::Stop,
        FinishReason::Length,
        FinishReason::Context,
    ];
    let embedding = Embedding {
        // The last is one that miniserde reads off by a bit.
        values: vec![-0.1, 0.0, 1.1e-38],
        prompt_tokens: 0,
    };
    let state = State {
        tokens: u32::MAX,
        bytes: u64::MAX,
    };
    let mut answers = vec![
        Ok(Answer::Embedding(embedding)),
        Ok(Answer::Tokens(vec![])),
        Ok(Answer::Text(text())),
        Ok(Answer::State(state)),
    ];
    answers.extend(reasons.map(|reason| Ok(Answer::Generated(Box::new(done(reason))))));
    answers.extend(Code::ALL.map(|code| Err(Failure::new(code, text()))));
    let mut all = vec![
        FromModel::Hello(build()),
        FromModel::Ready(Box::new(ready)),
        FromModel::Refused(text()),
        FromModel::Notice(String::new()),
        FromModel::Busy(0),
        FromModel::Busy(u64::MAX),
        FromModel::Part(1, Part::Text(String::new())),
        FromModel::Part(u64::MAX, Part::Text(text())),
        FromModel::Part(2, Part::Tokens(vec![i32::MIN, i32::MAX])),
        FromModel::Part(3, Part::Values(vec![-0.1, 0.0])),
    ];
    all.extend(
        answers
            .into_iter()
            .map(|answer| FromModel::Answer(7, answer)),
    );
    all
}

fn pair() -> (Link, Link) {
    let (one, other) = UnixStream::pair().expect("sockets can be made");
    let link = |stream| Link::new(stream).expect("it can be taken over");
    (link(one), link(other))
}

/// The next message, which is there.
fn next<M: Message>(link: &mut Link) -> M {
    match link.receive() {
        Ok(Received::Message(message)) => message,
        Ok(Received::Nothing) => panic!("no message is there"),
        Ok(Received::End) => panic!("the other end is closed"),
        Err(error) => panic!("{error}"),
    }
}

fn expect_all<M: Message + Debug>(messages: fn() -> Vec<M>) {
    let (mut one, mut other) = pair();
    for (sent, same) in messages().into_iter().zip(messages()) {
        one.send(sent).expect("there is room for it");
        assert_eq!(format!("{:?}", next::<M>(&mut other)), format!("{same:?}"));
    }
    // Many at once come one by one.
    for message in messages() {
        one.queue(message);
    }
    one.flush().expect("there is room for them");
    assert!(!one.has_outgoing());
    for message in messages() {
        assert_eq!(
            format!("{:?}", next::<M>(&mut other)),
            format!("{message:?}")
        );
    }
    assert!(matches!(other.receive::<M>(), Ok(Received::Nothing)));
    drop(one);
    assert!(matches!(other.receive::<M>(), Ok(Received::End)));
}

#[test]
fn every_message_comes_as_it_was_sent() {
    expect_all(to_model);
    expect_all(from_model);
}

/// What the bridge receives when a model program writes these bytes.
fn received(bytes: &[u8], limit: usize) -> (UnixStream, Link) {
    let (mut stream, other) = UnixStream::pair().expect("sockets can be made");
    let mut link = Link::new(other).expect("it can be taken over");
    link.set_limit(limit);
    stream.write_all(bytes).expect("there is room for them");
    (stream, link)
}

#[test]
fn a_message_may_come_in_parts() {
    let line = "piece 5 \"\u{e9}\u{1f600}\"\n".as_bytes();
    for at in 0..line.len() {
        let (mut stream, mut link) = received(&line[..at], usize::MAX);
        let early = link.receive::<FromModel>();
        assert!(matches!(early, Ok(Received::Nothing)), "cut at {at}");
        stream.write_all(&line[at..]).expect("there is room");
        let message = next::<FromModel>(&mut link);
        assert!(
            matches!(message, FromModel::Part(5, Part::Text(text)) if text == "\u{e9}\u{1f600}")
        );
        // What never ends is not a message.
        let (stream, mut link) = received(&line[..at], usize::MAX);
        drop(stream);
        let end = link.receive::<FromModel>();
        assert!(matches!(end, Ok(Received::End)), "cut at {at}");
    }
}

#[test]
fn what_is_no_message_is_an_error() {
    let rows: [&[u8]; 13] = [
        b"\n",
        b"hello\n",
        b"piece 5\n",
        b"piece 5 \n",
        b"nonsense 5 1\n",
        b"piece \"without a number\"\n",
        b"piece -1 \"a\"\n",
        b"piece 18446744073709551616 \"a\"\n",
        b"piece  5 \"a\"\n",
        b"piece 5 1\n",
        b"piece 5 \"a\" \"b\"\n",
        b"failed 5 {\"code\":\"nonsense\",\"message\":\"a\"}\n",
        b"piece 5 \"\xff\"\n",
    ];
    for row in rows {
        let (_stream, mut link) = received(row, usize::MAX);
        assert!(
            link.receive::<FromModel>().is_err(),
            "{}",
            row.escape_ascii()
        );
    }
    // Of the other direction.
    let (_stream, mut link) = received(b"embed 5 \"a\"\n", usize::MAX);
    assert!(link.receive::<FromModel>().is_err());
}

#[test]
fn a_message_may_be_as_long_as_the_limit() {
    let line = |length: usize| {
        let frame = r#"piece 5 """#;
        format!("piece 5 \"{}\"", "a".repeat(length - frame.len()))
    };
    let (mut stream, mut link) = received(line(100).as_bytes(), 100);
    assert!(matches!(link.receive::<FromModel>(), Ok(Received::Nothing)));
    stream.write_all(b"\n").expect("there is room");
    assert!(matches!(next(&mut link), FromModel::Part(5, _)));
    // One more, whose end is still to come.
    let (_stream, mut link) = received(line(101).as_bytes(), 100);
    let error = link.receive::<FromModel>().err().expect("it is too long");
    assert_eq!(error.to_string(), "a message of more than 100 bytes");
}
