//! STREAM: pieces that leave as they come, and joined are the final text.

use crate::harness::{Answer, Bridge, Client, Directory, Tiny, quoted, smollm2_or_skip};

/// The bytes that begin a character of [`babble`].
const STARTS: [u8; 7] = [b'a', b'b', b'c', b'z', 0xc3, 0xe2, 0xf0];

/// A model whose text is any mixture of a, b, c, é, € and 😀, all as likely; a z, as likely, ends it.
fn babble() -> Tiny {
    let ends = [b'!', b'a', b'b', b'c', 0xa9, 0xac, 0x80];
    let model = ends.iter().fold(Tiny::mute(), |model, end| {
        STARTS
            .iter()
            .fold(model, |model, start| model.follow(*end, *start))
    });
    ["\u{e9}", "\u{20ac}", "\u{1f600}"]
        .iter()
        .fold(model, |model, character| model.chain(character))
}

/// What a stream has to be whose text is `raw` if nothing stops it.
fn expected(raw: &Answer, stop: &[&str]) -> (Vec<String>, String, &'static str) {
    let ended = |end: &usize| stop.iter().any(|stop| raw.text[..*end].ends_with(stop));
    let boundaries: Vec<usize> = (1..=raw.text.len())
        .filter(|at| raw.text.is_char_boundary(*at))
        .collect();
    let completed = boundaries.iter().copied().find(ended);
    let (text, reason, last) = match completed {
        Some(end) => {
            let starts = stop.iter().filter_map(|stop| raw.text[..end].find(stop));
            let start = starts.min().expect("one of them ends here");
            (&raw.text[..start], "stop", end)
        }
        None if raw.finish_reason == "stop" => (&raw.text[..], "stop", usize::MAX),
        None => (&raw.text[..], "length", raw.text.len()),
    };
    let mut pieces = Vec::new();
    let mut given = 0;
    for end in boundaries.into_iter().filter(|end| *end < last) {
        let held = held_back(&raw.text[..end], stop);
        pieces.push(raw.text[given..end - held].to_string());
        given = end - held;
    }
    pieces.push(text[given..].to_string());
    pieces.retain(|piece| !piece.is_empty());
    (pieces, text.to_string(), reason)
}

/// How many bytes at the end of `text` could still become a stop string.
fn held_back(text: &str, stop: &[&str]) -> usize {
    let beginnings = stop
        .iter()
        .flat_map(|stop| stop.char_indices().map(|(at, _)| &stop[..at]));
    let held = beginnings.filter(|beginning| text.ends_with(beginning));
    held.map(str::len).max().unwrap_or(0)
}

#[test]
fn pieces_are_the_final_text_however_it_ends() {
    let home = Directory::new();
    let model = babble().write(home.join("babble.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    let stops: [&[&str]; 8] = [
        &[],
        &["ab", "cab", "\u{1f600}ab"],
        &["\u{e9}"],
        &["\u{20ac}a", "b\u{1f600}"],
        &["aa", "aab", "caab"],
        &["abcabc", "bca", "\u{1f600}\u{1f600}"],
        &["never in it", "c\u{e9}\u{20ac}", "b"],
        &["aba", "abac", "\u{20ac}\u{e9}z"],
    ];
    let mut ends = [0; 4];
    for seed in 0..160 {
        // Bytes at the most: many of these texts end inside a character.
        let max_tokens = 3 + seed % 40;
        let stop = stops[seed as usize % stops.len()];
        let request = |extra: &str| {
            format!(
                r#"{{"prompt":"!","temperature":1,"seed":{seed},"max_tokens":{max_tokens}{extra}}}"#
            )
        };
        let raw = client.generate(&request(""));
        let list: Vec<String> = stop.iter().map(|stop| quoted(stop)).collect();
        let list = format!(r#","stream":true,"stop":[{}]"#, list.join(","));
        let answer = client.generate(&request(&list));
        let (pieces, text, reason) = expected(&raw, stop);
        assert_eq!(answer.text, text, "seed {seed}, stop {stop:?}, of {raw:?}");
        assert_eq!(answer.pieces, pieces, "seed {seed}, stop {stop:?}");
        assert_eq!(answer.finish_reason, reason, "seed {seed}, stop {stop:?}");
        let inside = text.ends_with('\u{fffd}');
        let kind = match reason {
            "length" if inside => 0,
            "length" => 1,
            _ if text == raw.text => 2,
            _ => 3,
        };
        ends[kind] += 1;
    }
    // That all these ways of ending were among them.
    assert!(ends.iter().all(|count| *count >= 5), "{ends:?}");
}

#[test]
fn a_stream_is_its_pieces_and_then_the_reply_of_infer_with_the_statistics() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    client.ask("STREAM w");
    for piece in ["x", "y", "z"] {
        client.expect(&format!(
            r#"{{"status":"partial","message":"token","data":"{piece}"}}"#
        ));
    }
    let answer = client.answer();
    assert_eq!((&answer.text[..], answer.pieces.len()), ("xyz", 0));
    assert_eq!(answer.finish_reason, "stop");
    assert_eq!((answer.prompt_tokens, answer.completion_tokens), (2, 3));
}

#[test]
fn the_first_piece_leaves_while_the_text_is_still_being_generated() {
    let home = Directory::new();
    let model = Tiny::endless().write(home.join("endless.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["-c", "0", "-n", "-1"]);
    let mut client = bridge.connect();
    client.ask("STREAM a");
    for piece in ["b", "c", "d"] {
        assert_eq!(client.piece(), piece);
    }
    // The text would go on for an hour; a client that goes away ends it.
    client.vanish();
    let mut next = bridge.connect();
    next.ask("STREAM k");
    assert_eq!(next.piece(), "l");
}

#[test]
fn every_reason_to_finish_is_told() {
    let home = Directory::new();
    let model = Tiny::carousel().context(64).write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    let mut finish = |fields: &str| {
        let answer = client.generate(&format!(r#"{{"stream":true,"prompt":"a"{fields}}}"#));
        assert_eq!(answer.pieces.concat(), answer.text);
        (
            answer.finish_reason,
            answer.completion_tokens,
            answer.text.len(),
        )
    };
    assert_eq!(
        finish(r#","max_tokens":-1"#),
        ("context".to_string(), 63, 63)
    );
    assert_eq!(
        finish(r#","max_tokens":63"#),
        ("length".to_string(), 63, 63)
    );
    assert_eq!(
        finish(r#","max_tokens":64"#),
        ("context".to_string(), 63, 63)
    );
    assert_eq!(finish(r#","max_tokens":0"#), ("length".to_string(), 0, 0));
    assert_eq!(finish(r#","stop":"ef""#), ("stop".to_string(), 5, 3));
    assert_eq!(
        finish(r#","stop":"ef","max_tokens":5"#),
        ("stop".to_string(), 5, 3)
    );
    assert_eq!(
        finish(r#","stop":"ef","max_tokens":4"#),
        ("length".to_string(), 4, 4)
    );
}

#[test]
fn a_model_that_ends_its_text_stops() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    client.ask("STREAM z");
    let answer = client.answer();
    assert!(answer.pieces.is_empty());
    assert_eq!(answer.text, "");
    assert_eq!(answer.finish_reason, "stop");
    assert_eq!(answer.completion_tokens, 0);
}

#[test]
fn the_replacement_of_a_broken_character_can_be_a_stop_string() {
    let home = Directory::new();
    let model = Tiny::mute().chain("a\u{e9}b").write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    let fields = r#""stream":true,"prompt":"a","stop":"\ufffd""#;
    let whole = client.generate(&format!("{{{fields}}}"));
    assert_eq!(whole.text, "\u{e9}b");
    assert_eq!(whole.pieces, ["\u{e9}", "b"]);
    let cut = client.generate(&format!(r#"{{{fields},"max_tokens":1}}"#));
    assert_eq!((&cut.text[..], &cut.finish_reason[..]), ("", "stop"));
}

#[test]
fn a_stop_string_takes_what_its_token_has_behind_it_with_it() {
    let home = Directory::new();
    let half = Tiny::mute().chain("xab").token(b'b', b"c!\xe2\x82");
    let bridge = Bridge::with_model(&home, &half.write(home.join("half.gguf")), &[]);
    let mut client = bridge.connect();
    for (stop, text, pieces) in [
        ("[]", "abc!\u{fffd}", &["a", "b", "c!\u{fffd}"][..]),
        (r#"["!"]"#, "abc", &["a", "b", "c"]),
        (r#"["c"]"#, "ab", &["a", "b"]),
        (r#"["bc!"]"#, "a", &["a"]),
        (r#"["abc!"]"#, "", &[]),
        (r#"["!\ufffd"]"#, "abc", &["a", "b", "c"]),
        (r#"["a!","c!"]"#, "ab", &["ab"]),
    ] {
        let answer = client.generate(&format!(
            r#"{{"prompt":"x","stream":true,"max_tokens":3,"stop":{stop}}}"#
        ));
        assert_eq!(answer.text, text, "stop {stop}");
        assert_eq!(answer.pieces, pieces, "stop {stop}");
        let reason = if stop == "[]" { "length" } else { "stop" };
        assert_eq!(answer.finish_reason, reason, "stop {stop}");
    }
}

#[test]
fn streams_that_are_sent_together_are_answered_in_their_order() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    client.send("STREAM w\nPING\nSTREAM x\nINFER y\n");
    assert_eq!(client.answer().pieces, ["x", "y", "z"]);
    client.expect(&crate::harness::ok("pong"));
    assert_eq!(client.answer().pieces, ["y", "z"]);
    client.expect(&crate::harness::completed("z"));
}

#[test]
fn an_error_in_the_middle_of_a_stream_ends_it() {
    let home = Directory::new();
    let model = Tiny::alphabet().poison(b'x').write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    client.ask("STREAM u");
    assert_eq!([client.piece(), client.piece()], ["v", "w"]);
    // The x comes of good values, and what follows it of none.
    assert_eq!(client.piece(), "x");
    client.expect_error("internal");
    client.exchange("PING", &crate::harness::ok("pong"));
}

#[test]
fn a_stream_that_cannot_begin_is_one_error() {
    let home = Directory::new();
    let model = Tiny::carousel().context(64).write(home.join("tiny.gguf"));
    let bridge = Bridge::start(&home, &["--temp", "0"]);
    let mut client = bridge.connect();
    client.ask("STREAM");
    assert_eq!(client.expect_error("bad_request"), "No prompt provided");
    client.ask("STREAM a");
    assert_eq!(client.expect_error("no_model"), "No model loaded");
    client.load(&model);
    client.ask(&format!("STREAM {}", "a".repeat(64)));
    assert_eq!(
        client.expect_error("context_exceeded"),
        "Prompt of 65 tokens exceeds the context of 64 tokens"
    );
}

#[test]
fn a_real_models_pieces_are_its_text() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    let prompts = [
        "Here are ten emoji: \u{1f600} \u{1f680}",
        "Le caf\u{e9} \u{e9}tait ferm\u{e9}, alors",
        "\u{65e5}\u{672c}\u{8a9e}\u{3067}",
    ];
    for seed in 0..9_u32 {
        let request = |stream: bool, stop: &str| {
            let prompt = quoted(prompts[seed as usize % prompts.len()]);
            format!(
                r#"{{"prompt":{prompt},"seed":{seed},"temperature":1.2,"max_tokens":24,"stream":{stream},"stop":{stop}}}"#
            )
        };
        let raw = client.generate(&request(false, "[]"));
        let streamed = client.generate(&request(true, "[]"));
        assert!(raw.pieces.is_empty());
        assert_eq!(streamed.text, raw.text, "the same seed");
        assert_eq!(streamed.pieces.concat(), raw.text);
        check_real_stop(&mut client, &raw, |stop| request(true, stop));
    }
}

/// Stops a text in its middle, at a string that begins and ends inside tokens.
fn check_real_stop(client: &mut Client, raw: &Answer, request: impl Fn(&str) -> String) {
    let characters: Vec<char> = raw.text.chars().collect();
    let middle = characters.len() / 2;
    let stop: String = characters[middle..].iter().take(5).collect();
    if stop.is_empty() {
        return;
    }
    let answer = client.generate(&request(&quoted(&stop)));
    let start = raw.text.find(&stop).expect("it is a part of it");
    assert_eq!(answer.text, raw.text[..start]);
    assert_eq!(answer.pieces.concat(), answer.text);
    assert_eq!(answer.finish_reason, "stop");
}
