//! Answers that are too long for one message of the model process: they come whole, up to a limit that
//! is told.

use crate::harness::{Bridge, Client, Directory, Tiny, failure, quoted};

/// Requests at once: each may have 1 MiB of text.
const PARALLEL: &str = "16";
const MOST: usize = 1 << 20;

/// Bytes of its long token, which is number 260.
const LONG: usize = 10_000;

/// A model that has a token of many `z`, which it chooses after each `z`.
fn bridge(home: &Directory) -> Bridge {
    let tiny = Tiny::mute().token(b'z', &[b'z'; LONG]);
    let model = tiny.write(home.join("tiny.gguf"));
    Bridge::with_model(home, &model, &["--parallel", PARALLEL, "--temp", "0"])
}

/// Asks for a text that has no end.
fn ask(client: &mut Client, stream: bool) {
    client.ask(&format!(
        r#"GENERATE {{"prompt":"z","max_tokens":-1,"ignore_eos":true,"grammar":"root ::= \"z\"+","stream":{stream}}}"#
    ));
}

#[test]
fn a_text_that_has_no_end_ends_where_a_reply_does() {
    let home = Directory::new();
    let bridge = bridge(&home);
    let mut client = bridge.connect();
    for stream in [false, true] {
        ask(&mut client, stream);
        let answer = client.answer();
        assert_eq!(answer.finish_reason, "length");
        assert!((MOST..MOST + LONG).contains(&answer.text.len()));
        assert!(answer.text.bytes().all(|byte| byte == b'z'));
        if stream {
            assert_eq!(answer.pieces.concat(), answer.text);
        }
    }
    client.exchange("PING", &crate::harness::ok("pong"));
}

#[test]
fn tokens_and_their_text_come_whole_or_it_is_told_that_they_do_not_fit() {
    let home = Directory::new();
    let bridge = bridge(&home);
    let mut client = bridge.connect();
    // Two messages and a bit more of tokens, and four of text; characters of two bytes.
    let text = "\u{e9}".repeat(20_001 / 2 + 20_001);
    client.ask(&format!("TOKENIZE {text}"));
    let reply = client.receive();
    let tokens = "198,172,".repeat(text.len() / 2);
    let tokens = tokens.trim_end_matches(',');
    let expected =
        format!(r#"{{"status":"ok","message":"Tokenization completed","tokens":[{tokens}]}}"#);
    assert!(reply == expected, "{} {}", reply.len(), expected.len());
    client.ask(&format!("DETOKENIZE {}", tokens.replace(',', " ")));
    let text = quoted(&text);
    let expected =
        format!(r#"{{"status":"ok","message":"Detokenization completed","data":{text}}}"#);
    assert!(client.receive() == expected);

    let longest = MOST / LONG;
    let detokenize = |count: usize| format!("DETOKENIZE {}", "260 ".repeat(count).trim_end());
    client.ask(&detokenize(longest));
    let text = "z".repeat(longest * LONG);
    assert!(client.receive().contains(&text));
    let message = format!(
        "The text of the tokens has {} bytes; a reply may have {MOST}",
        (longest + 1) * LONG
    );
    client.exchange(&detokenize(longest + 1), &failure("bad_request", &message));
}
