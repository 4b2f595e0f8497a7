use super::{Reply, line, partial_line};
use crate::protocol::json::{Kind, parse};
use crate::shared::failure::{Code, Failure};
use crate::shared::message::{Done, Embedding, FinishReason, State};
use crate::shared::sandbox::{Extent, Sandbox};

#[test]
fn each_reply_is_a_line_of_json() {
    let data = |text: &str| Reply::Data {
        message: "Text",
        data: text.to_string(),
    };
    let done = Done {
        text: "a\nb".to_string(),
        finish_reason: FinishReason::Context,
        prompt_tokens: 3,
        cached_tokens: 2,
        completion_tokens: 1,
        prompt_ms: 0.5,
        completion_ms: 1e3,
        seed: u32::MAX,
    };
    let embedding = Embedding {
        values: vec![0.0, -0.25, 1e-7],
        prompt_tokens: 2,
    };
    let state = State {
        tokens: 5,
        bytes: u64::MAX,
    };
    let version = env!("CARGO_PKG_VERSION");
    let rows = [
        (Reply::message(""), r#"{"status":"ok","message":""}"#.to_string()),
        (
            Reply::message("\"\\/\u{8}\u{c}\n\r\t\0\u{1f}"),
            r#"{"status":"ok","message":"\"\\/\b\f\n\r\t\u0000\u001f"}"#.to_string(),
        ),
        (
            data("\u{7f}\u{e9}\u{2028}\u{1f600}"),
            "{\"status\":\"ok\",\"message\":\"Text\",\"data\":\"\u{7f}\u{e9}\u{2028}\u{1f600}\"}"
                .to_string(),
        ),
        (
            Reply::Completion(done),
            r#"{"status":"ok","message":"Inference completed","data":"a\nb","finish_reason":"context","prompt_tokens":3,"cached_tokens":2,"completion_tokens":1,"prompt_ms":0.5,"completion_ms":1000.0,"seed":4294967295}"#.to_string(),
        ),
        (
            Reply::Embedding(embedding),
            r#"{"status":"ok","message":"Embedding completed","embedding":[0.0,-0.25,1e-7],"prompt_tokens":2}"#.to_string(),
        ),
        (
            Reply::Tokens(vec![0, -1, i32::MAX]),
            r#"{"status":"ok","message":"Tokenization completed","tokens":[0,-1,2147483647]}"#.to_string(),
        ),
        (
            Reply::State("State saved", state),
            r#"{"status":"ok","message":"State saved","state_tokens":5,"state_bytes":18446744073709551615}"#.to_string(),
        ),
        (
            Reply::Info {
                sandbox: Sandbox {
                    extent: Extent::Partial,
                    lacks: vec!["a".to_string(), "b".to_string()],
                },
                model: None,
            },
            format!(r#"{{"status":"ok","message":"No model loaded","version":"{version}","loaded":false,"sandbox":"partial","sandbox_lacks":["a","b"]}}"#),
        ),
    ];
    for (reply, expected) in rows {
        let line = line(&Ok(reply));
        assert_eq!(line, expected + "\n");
        assert!(parse(&line).is_ok(), "{line}");
    }
}

#[test]
fn each_failure_names_its_code() {
    for code in Code::ALL {
        let line = line(&Err(Failure::new(code, "a \"b\"")));
        let name = code.name();
        let expected = format!(r#"{{"status":"error","message":"a \"b\"","code":"{name}"}}"#);
        assert_eq!(line, expected + "\n");
    }
}

#[test]
fn every_character_comes_back_from_the_line_that_it_is_written_in() {
    let all: String = ('\0'..=char::MAX).collect();
    let line = partial_line(&all);
    assert_eq!(line.matches('\n').count(), 1);
    let object = parse(line.trim_end()).expect("it is JSON");
    let data = object.fields().find(|(name, _)| *name == "data");
    let (_, data) = data.expect("the text is there");
    assert!(data.kind == Kind::String(all));
}
