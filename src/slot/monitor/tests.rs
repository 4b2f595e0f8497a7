//! Rows of what a process may say and may not; each begins where a model is loaded and the requests of
//! [`asked`] are sent.

use std::time::Duration;

use super::request::{LONGEST_TOKEN, MAX_STATE};
use super::*;
use llama_cpp_bridge::shared::build::Build;
use llama_cpp_bridge::shared::message::{Done, Embedding, FinishReason, Generate, State, Work};
use llama_cpp_bridge::shared::parts;
use llama_cpp_bridge::shared::settings::Sampling;

const CONTEXT: u32 = 100;

fn ready() -> Ready {
    Ready {
        description: "d".repeat(MAX_SENTENCE),
        architecture: "llama".to_string(),
        parameters: u64::MAX,
        size_bytes: u64::MAX,
        context_size: CONTEXT,
        training_context_size: u32::MAX,
        embedding_size: 2,
        vocabulary_size: 10,
        chat_template: true,
        sandbox_lacks: vec!["a".to_string(); MOST_LACKS],
    }
}

fn params(ctx_size: Option<u32>) -> ModelParams {
    ModelParams {
        ctx_size,
        parallel: 1,
        ..ModelParams::default()
    }
}

fn generate(max_tokens: i32, stream: bool) -> Work {
    Work::Generate(Box::new(Generate {
        prompt: Some("a".to_string()),
        messages: None,
        max_tokens,
        sampling: Sampling::default(),
        seed: 7,
        stop: Vec::new(),
        grammar: None,
        json_schema: None,
        stream,
        ignore_eos: false,
        cache_prompt: true,
    }))
}

/// A monitor of a process that has loaded a model with these options.
fn loaded(ctx_size: Option<u32>, ready: Ready) -> Result<Monitor, String> {
    let mut monitor = Monitor::new();
    let now = Instant::now();
    monitor.check(&FromModel::Hello(Build::this()), now)?;
    monitor.sent(&ToModel::Load(Box::new(params(ctx_size))), now);
    monitor.check(&FromModel::Ready(Box::new(ready)), now)?;
    Ok(monitor)
}

/// One with a request of each kind: 1 generates at most 5 tokens, 2 streams until the context is full,
/// 3 embeds, 4 tokenizes 2 bytes, 5 detokenizes 3 tokens, 6 saves; and the time.
fn asked() -> (Monitor, Instant) {
    let mut monitor = loaded(None, ready()).expect("it is right");
    let now = Instant::now();
    let works = [
        generate(5, false),
        generate(-1, true),
        Work::Embed("a".to_string()),
        Work::Tokenize("ab".to_string()),
        Work::Detokenize(vec![1, 2, 3]),
        Work::Save("a".to_string()),
    ];
    for (id, work) in (1..).zip(works) {
        monitor.sent(&ToModel::Work(id, work), now);
    }
    (monitor, now)
}

fn done(prompt_tokens: u32, completion_tokens: u32, bytes: usize) -> Done {
    Done {
        text: "a".repeat(bytes),
        finish_reason: FinishReason::Length,
        prompt_tokens,
        cached_tokens: 0,
        completion_tokens,
        prompt_ms: 0.0,
        completion_ms: 0.0,
        seed: 7,
    }
}

/// Whether this is taken as the answer to a request of [`asked`].
fn answers(id: u64, answer: Answer) -> bool {
    let (mut monitor, now) = asked();
    monitor
        .check(&FromModel::Answer(id, Ok(answer)), now)
        .is_ok()
}

fn generated(id: u64, done: Done) -> bool {
    answers(id, Answer::Generated(Box::new(done)))
}

#[test]
fn a_generated_text_has_as_many_tokens_as_fit_and_were_asked_for() {
    for (prompt, completion, may_be) in [
        (1, 5, true),
        (1, 6, false),
        (96, 5, true),
        (97, 5, false),
        (100, 1, true),
        (100, 2, false),
        (101, 0, false),
        (0, 0, false),
    ] {
        assert_eq!(
            generated(1, done(prompt, completion, 1)),
            may_be,
            "{prompt} {completion}"
        );
    }
    // Without a limit of its own: all that fit, and one that is not evaluated any more.
    assert!(generated(2, done(1, 100, 1)));
    assert!(!generated(2, done(1, 101, 1)));
    // The token that reaches the limit is whole.
    let most = parts::most_text(1) + LONGEST_TOKEN;
    assert!(generated(1, done(1, 1, most)));
    assert!(!generated(1, done(1, 1, most + 1)));
}

#[test]
fn times_are_no_longer_than_was_waited() {
    let (_, start) = asked();
    for (prompt, completion, may_be) in [
        (0.0, 0.0, true),
        (-0.0, 0.0, true),
        (5000.0, 5900.0, true),
        (5600.0, 5600.0, false),
        (-1.0, 0.0, false),
        (f64::NAN, 0.0, false),
        (0.0, f64::INFINITY, false),
        (1e300, 0.0, false),
    ] {
        let (mut monitor, _) = asked();
        let answer = Done {
            prompt_ms: prompt,
            completion_ms: completion,
            ..done(1, 1, 1)
        };
        let message = FromModel::Answer(1, Ok(Answer::Generated(Box::new(answer))));
        let verdict = monitor.check(&message, start + Duration::from_secs(10));
        assert_eq!(verdict.is_ok(), may_be, "{prompt} {completion}");
    }
}

#[test]
fn each_request_has_one_answer_of_its_kind() {
    let kinds: [fn() -> Answer; 6] = [
        || Answer::Generated(Box::new(done(1, 1, 1))),
        || Answer::Generated(Box::new(done(1, 1, 1))),
        || {
            Answer::Embedding(Embedding {
                values: vec![0.0, 1.0],
                prompt_tokens: CONTEXT,
            })
        },
        || Answer::Tokens(vec![0, 9]),
        || Answer::Text("a".repeat(parts::most_text(1))),
        || {
            Answer::State(State {
                tokens: CONTEXT,
                bytes: MAX_STATE,
            })
        },
    ];
    for id in 1..=6 {
        for (kind, answer) in (1..).zip(kinds) {
            let right = kind == id || kind.max(id) <= 2;
            assert_eq!(answers(id, answer()), right, "{kind} to {id}");
        }
    }
    let (mut monitor, now) = asked();
    for (id, answer) in (1..).zip(kinds) {
        let message = FromModel::Answer(id, Ok(answer()));
        monitor.check(&message, now).expect("one");
        assert!(monitor.check(&message, now).is_err(), "{id} twice");
    }
}

#[test]
fn tokens_are_in_the_vocabulary_and_no_more_than_the_text_can_have() {
    let most = parts::most_tokens(1, 2);
    assert!(answers(4, Answer::Tokens(vec![9; most])));
    assert!(!answers(4, Answer::Tokens(vec![9; most + 1])));
    assert!(!answers(4, Answer::Tokens(vec![10])));
    assert!(!answers(4, Answer::Tokens(vec![-1])));
    assert!(answers(4, Answer::Tokens(Vec::new())));
}

#[test]
fn pieces_of_a_stream_are_no_more_than_its_tokens_and_no_longer_than_its_text() {
    let piece = |text: &str| FromModel::Part(2, Part::Text(text.to_string()));
    let (mut monitor, now) = asked();
    // One that was given up still sends what was on its way.
    monitor.sent(&ToModel::Cancel(2), now);
    for _ in 0..=CONTEXT {
        monitor
            .check(&piece("a"), now)
            .expect("one for each token, and the rest");
    }
    assert!(monitor.check(&piece("a"), now).is_err());
    let (mut monitor, now) = asked();
    let part = "a".repeat(parts::TEXT);
    let most = (parts::most_text(1) + LONGEST_TOKEN) / parts::TEXT;
    for _ in 0..most {
        monitor.check(&piece(&part), now).expect("all of it");
    }
    assert!(monitor.check(&piece("a"), now).is_err());
    // Nor with the answer.
    let (mut monitor, now) = asked();
    monitor.check(&piece("a"), now).expect("one");
    let rest = done(1, 1, parts::most_text(1) + LONGEST_TOKEN);
    let answer = FromModel::Answer(2, Ok(Answer::Generated(Box::new(rest))));
    assert!(monitor.check(&answer, now).is_err());
}

#[test]
fn parts_are_of_the_kind_of_their_answer_and_together_no_more_than_it() {
    let text = |count| Part::Text("a".repeat(count));
    let tokens = |count| Part::Tokens(vec![9; count]);
    let values = |count| Part::Values(vec![0.5; count]);
    let (bytes, most_tokens) = (parts::most_text_of_tokens(1, 3), parts::most_tokens(1, 2));
    for (id, part, may_be) in [
        (1, text(1), true),
        (5, text(bytes), true),
        (5, text(bytes + 1), false),
        (4, tokens(most_tokens), true),
        (4, tokens(most_tokens + 1), false),
        (4, Part::Tokens(vec![10]), false),
        (3, values(2), true),
        (3, values(3), false),
        (3, Part::Values(vec![f64::NAN]), false),
        (1, tokens(1), false),
        (2, values(1), false),
        (3, text(1), false),
        (4, text(1), false),
        (5, tokens(1), false),
        (6, text(1), false),
        (7, text(1), false),
        (1, text(0), false),
        (3, values(0), false),
        (4, tokens(0), false),
    ] {
        let (mut monitor, now) = asked();
        let verdict = monitor.check(&FromModel::Part(id, part), now);
        assert_eq!(verdict.is_ok(), may_be, "{id} {verdict:?}");
    }
    // An embedding that has come in part is only ended by the rest.
    for (rest, may_be) in [(0, false), (1, true), (2, false)] {
        let (mut monitor, now) = asked();
        monitor
            .check(&FromModel::Part(3, values(1)), now)
            .expect("the first half");
        let rest = Answer::Embedding(Embedding {
            values: vec![0.0; rest],
            prompt_tokens: 1,
        });
        let verdict = monitor.check(&FromModel::Answer(3, Ok(rest)), now);
        assert_eq!(verdict.is_ok(), may_be, "{verdict:?}");
    }
}

#[test]
fn more_requests_at_once_may_have_less_text_each() {
    let most = |parallel| {
        let mut monitor = Monitor::new();
        let now = Instant::now();
        let params = ModelParams {
            parallel,
            ..params(None)
        };
        let messages = [
            FromModel::Hello(Build::this()),
            FromModel::Ready(Box::new(ready())),
        ];
        monitor.sent(&ToModel::Load(Box::new(params)), now);
        for message in messages {
            monitor.check(&message, now).expect("it is right");
        }
        monitor.sent(&ToModel::Work(1, generate(1, false)), now);
        let part = FromModel::Part(1, Part::Text("a".repeat(1 << 18)));
        (0..)
            .take_while(|_| monitor.check(&part, now).is_ok())
            .count()
            >> 2
    };
    assert_eq!([1, 2, 16, 64].map(most), [16, 8, 1, 1]);
}

#[test]
fn a_failure_has_a_code_of_the_model_process_and_a_short_sentence() {
    for code in Code::ALL {
        let (mut monitor, now) = asked();
        let failure = Failure::new(code, "a".repeat(MAX_SENTENCE));
        let its_own = monitor
            .check(&FromModel::Answer(3, Err(failure)), now)
            .is_ok();
        let expected = matches!(
            code,
            Code::BadRequest
                | Code::ContextExceeded
                | Code::Unsupported
                | Code::Denied
                | Code::NotFound
                | Code::Internal
        );
        assert_eq!(its_own, expected, "{code:?}");
    }
    let (mut monitor, now) = asked();
    let failure = Failure::new(Code::Internal, "a".repeat(MAX_SENTENCE + 1));
    assert!(
        monitor
            .check(&FromModel::Answer(3, Err(failure)), now)
            .is_err()
    );
}

#[test]
fn a_process_is_busy_only_with_requests_and_not_all_the_time() {
    let (mut monitor, now) = asked();
    // One for each request beside those.
    for _ in 0..BUSY.0 + 6 {
        monitor
            .check(&FromModel::Busy(u64::MAX), now)
            .expect("at once");
    }
    let later = now + Duration::from_secs(1);
    for _ in 0..BUSY.1 {
        monitor
            .check(&FromModel::Busy(1), later)
            .expect("a second later");
    }
    assert!(monitor.check(&FromModel::Busy(1), later).is_err());
    let save = |id| ToModel::Work(id, Work::Save("a".to_string()));
    let answer = |id| {
        let state = State {
            tokens: 1,
            bytes: 1,
        };
        FromModel::Answer(id, Ok(Answer::State(state)))
    };
    for id in 100..10_000 {
        monitor.sent(&save(id), later);
        for message in [FromModel::Busy(1), answer(id)] {
            monitor
                .check(&message, later)
                .expect("once for each request");
        }
    }
    let mut idle = loaded(None, ready()).expect("it is right");
    assert!(idle.check(&FromModel::Busy(1), now).is_err());
}

#[test]
fn a_context_is_no_larger_than_was_asked_for() {
    for (asked, size, may_be) in [
        (None, DEFAULT_CONTEXT, true),
        (None, DEFAULT_CONTEXT + 1, false),
        (Some(8), 8, true),
        (Some(8), 9, false),
        (Some(0), MAX_CONTEXT, true),
        (Some(0), MAX_CONTEXT + 1, false),
        (Some(8), 0, false),
    ] {
        let ready = Ready {
            context_size: size,
            ..ready()
        };
        assert_eq!(loaded(asked, ready).is_ok(), may_be, "{asked:?} {size}");
    }
}

#[test]
fn each_message_has_its_time() {
    let hello = || FromModel::Hello(Build::this());
    let ready = || FromModel::Ready(Box::new(ready()));
    let refused = || FromModel::Refused("a".to_string());
    let notice = || FromModel::Notice("a".to_string());
    let now = Instant::now();
    let verdict = |messages: Vec<FromModel>| {
        let mut monitor = Monitor::new();
        monitor.sent(&ToModel::Load(Box::new(params(None))), now);
        messages
            .iter()
            .try_for_each(|message| monitor.check(message, now))
    };
    for right in [
        vec![hello(), notice(), ready()],
        vec![hello(), notice(), refused()],
    ] {
        verdict(right).expect("the order of a load");
    }
    for wrong in [
        vec![ready()],
        vec![notice()],
        vec![hello(), hello()],
        vec![hello(), ready(), ready()],
        vec![hello(), ready(), notice()],
        vec![hello(), ready(), refused()],
        vec![hello(), refused(), ready()],
        vec![hello(), refused(), notice()],
        vec![hello(), refused(), refused()],
    ] {
        assert!(verdict(wrong).is_err());
    }
}
