//! GENERATE: every field of its object, and what is said of one that is wrong.

use crate::harness::{Answer, Bridge, Directory, Tiny, carousel, expect_refusals, quoted};

#[test]
fn every_field_is_accepted_in_one_object() {
    let home = Directory::new();
    let bridge = carousel(&home, &[]);
    let mut client = bridge.connect();
    let object = r#"{"prompt":"a","max_tokens":9,"temperature":0,"top_k":5,"top_p":0.9,"min_p":0.1,
        "repeat_penalty":1.0,"repeat_last_n":8,"presence_penalty":0.0,"frequency_penalty":0,"seed":12,
        "stop":["h"],"grammar":"root ::= [a-z]+","stream":true,"ignore_eos":true,"cache_prompt":false}"#;
    let answer = client.generate(object);
    assert_eq!(answer.text, "bcdefg");
    assert_eq!(answer.pieces.concat(), "bcdefg");
    assert_eq!((&answer.finish_reason[..], answer.seed), ("stop", 12));
}

#[test]
fn the_object_may_stand_on_a_line_or_in_a_netstring() {
    let home = Directory::new();
    let bridge = carousel(&home, &[]);
    let mut client = bridge.connect();
    client.ask(r#"generate   { "max_tokens" : 2 , "prompt" : "x" } "#);
    assert_eq!(client.answer().text, "yz");
    let answer = client.generate("\n{\n\t\"prompt\": \"x\",\r\n\t\"max_tokens\": 2\n}\n");
    assert_eq!(answer.text, "yz");
}

#[test]
fn an_unknown_field_is_named_with_all_that_are_known() {
    let fields = "prompt, messages, max_tokens, temperature, top_k, top_p, min_p, repeat_penalty, \
        repeat_last_n, presence_penalty, frequency_penalty, seed, stop, grammar, json_schema, \
        stream, ignore_eos, cache_prompt";
    let message = |name: &str| format!("Unknown field '{name}'; the fields are {fields}");
    let long = "x".repeat(1000);
    let long_object = format!(r#"{{"{long}":1,"prompt":"a"}}"#);
    expect_refusals(&[
        (r#"{"prompt":"a","n_predict":5}"#, &message("n_predict")),
        (r#"{"Prompt":"a"}"#, &message("Prompt")),
        (r#"{"":1,"prompt":"a"}"#, &message("")),
        (&long_object, &message(&format!("{}...", "x".repeat(64)))),
    ]);
}

#[test]
fn a_field_of_the_wrong_type_is_named_with_what_it_takes() {
    let kinds = [
        ("null", "null"),
        ("true", "a boolean"),
        ("5", "5"),
        (r#""5""#, "a string"),
        ("[]", "an array"),
        ("{}", "an object"),
    ];
    let takes = [
        ("prompt", "a string", "3"),
        (
            "messages",
            "an array of objects with the fields role and content, at least one",
            "4",
        ),
        ("max_tokens", "a whole number from -1 to 1048576", "2"),
        ("temperature", "a number from 0 to 1000", "2"),
        ("top_k", "a whole number from 0 to 2147483647", "2"),
        ("presence_penalty", "a number from -2 to 2", "2"),
        ("seed", "a whole number from 0 to 4294967295", "2"),
        ("stop", "a string or an array of strings", "34"),
        ("grammar", "a string", "3"),
        ("json_schema", "an object", "5"),
        ("stream", "true or false", "1"),
        ("ignore_eos", "true or false", "1"),
        ("cache_prompt", "true or false", "1"),
    ];
    let home = Directory::new();
    let bridge = carousel(&home, &[]);
    let mut client = bridge.connect();
    for (name, takes, right) in takes {
        for (number, (value, found)) in kinds.iter().enumerate() {
            if right.contains(&number.to_string()) {
                continue;
            }
            let message = format!("Field '{name}' takes {takes}, not {found}");
            client.expect_refusal(&format!(r#"{{"{name}":{value}}}"#), &message);
        }
    }
}

#[test]
fn a_value_out_of_range_is_named_with_its_range() {
    let ranges = [
        (
            "max_tokens",
            "a whole number from -1 to 1048576",
            &["-2", "1048577", "1.5", "-1.0001", "1e30"][..],
        ),
        (
            "temperature",
            "a number from 0 to 1000",
            &["-0.1", "1000.1", "1e999", "-1e999"],
        ),
        (
            "top_k",
            "a whole number from 0 to 2147483647",
            &["-1", "2147483648", "0.5"],
        ),
        (
            "top_p",
            "a number from 0 to 1",
            &["-0.01", "1.01", "100", "1e400"],
        ),
        ("min_p", "a number from 0 to 1", &["-0.01", "1.01"]),
        (
            "repeat_last_n",
            "a whole number from -1 to 1048576",
            &["-2", "1048577"],
        ),
        (
            "presence_penalty",
            "a number from -2 to 2",
            &["-2.01", "2.01"],
        ),
        (
            "frequency_penalty",
            "a number from -2 to 2",
            &["-2.01", "2.01"],
        ),
        (
            "seed",
            "a whole number from 0 to 4294967295",
            &["4294967296", "-2", "0.1", "18446744073709551615"],
        ),
    ];
    let home = Directory::new();
    let bridge = carousel(&home, &[]);
    let mut client = bridge.connect();
    for (name, takes, values) in ranges {
        for value in values {
            let object = format!(r#"{{"prompt":"a","{name}":{value}}}"#);
            let message = format!("Field '{name}' takes {takes}, not {value}");
            client.expect_refusal(&object, &message);
        }
    }
    for value in ["0", "-1", "1000.5"] {
        let object = format!(r#"{{"prompt":"a","repeat_penalty":{value}}}"#);
        client.ask(&format!("GENERATE {object}"));
        let message = client.expect_error("bad_request");
        let start = "Field 'repeat_penalty' takes a number from ";
        assert!(
            message.starts_with(start) && message.ends_with(value),
            "{message}"
        );
    }
}

#[test]
fn the_ends_of_each_range_are_accepted() {
    let home = Directory::new();
    let bridge = carousel(&home, &[]);
    let mut client = bridge.connect();
    for fields in [
        r#""max_tokens":1048576"#,
        r#""max_tokens":-1"#,
        r#""temperature":1000"#,
        r#""temperature":0.0"#,
        r#""temperature":-0"#,
        r#""temperature":1E-5"#,
        r#""top_k":0"#,
        r#""top_k":2147483647"#,
        r#""top_k":4e1"#,
        r#""top_p":0"#,
        r#""top_p":1"#,
        r#""min_p":0"#,
        r#""min_p":1"#,
        r#""repeat_penalty":1000"#,
        r#""repeat_penalty":0.001"#,
        r#""repeat_last_n":-1"#,
        r#""repeat_last_n":1048576"#,
        r#""presence_penalty":-2"#,
        r#""presence_penalty":2"#,
        r#""frequency_penalty":-2"#,
        r#""frequency_penalty":2"#,
        r#""seed":0"#,
        r#""seed":4294967295"#,
        r#""stop":[]"#,
    ] {
        // Whatever it changes: the grammar has the model end at once.
        let grammar = r#""grammar":"root ::= \"b\"""#;
        let answer = client.generate(&format!(r#"{{"prompt":"a",{grammar},{fields}}}"#));
        assert_eq!(
            (&answer.text[..], &answer.finish_reason[..]),
            ("b", "stop"),
            "{fields}"
        );
    }
}

#[test]
fn a_field_is_given_once_and_what_is_needed_is_given() {
    let missing = "Missing field: prompt or messages";
    let both = "Only one of the fields prompt and messages can be given";
    let turn = r#"{"role":"user","content":"a"}"#;
    expect_refusals(&[
        (
            r#"{"prompt":"a","seed":1,"seed":1}"#,
            "Field 'seed' is given twice",
        ),
        (
            r#"{"prompt":"a","prompt":"b"}"#,
            "Field 'prompt' is given twice",
        ),
        (
            r#"{"prompt":"a","se\u0065d":1,"seed":2}"#,
            "Field 'seed' is given twice",
        ),
        ("{}", missing),
        (r#"{"max_tokens":5}"#, missing),
        (&format!(r#"{{"prompt":"a","messages":[{turn}]}}"#), both),
        (
            r#"{"prompt":"a","grammar":"root ::= \"a\"","json_schema":{}}"#,
            "Only one of the fields grammar and json_schema can be given",
        ),
        (
            r#"{"prompt":""}"#,
            "Field 'prompt' is empty; it takes a string of at least one character",
        ),
        (
            r#"{"prompt":"a","grammar":""}"#,
            "Field 'grammar' is empty; it takes a string of at least one character",
        ),
        (
            r#"{"prompt":"a","stop":["b",""]}"#,
            "Field 'stop[1]' is empty; it takes a string of at least one character",
        ),
        (
            r#"{"prompt":"a","stop":["b","c",7]}"#,
            "Field 'stop[2]' takes a string, not 7",
        ),
    ]);
}

#[test]
fn a_wrong_message_is_named_by_its_place() {
    let takes = "an array of objects with the fields role and content, at least one";
    let one = |turn: &str| format!(r#"{{"messages":[{{"role":"user","content":"a"}},{turn}]}}"#);
    expect_refusals(&[
        (
            r#"{"messages":[]}"#,
            &format!("Field 'messages' is empty; it takes {takes}"),
        ),
        (
            &one("5"),
            "Field 'messages[1]' takes an object with the fields role and content, not 5",
        ),
        (&one("{}"), "Missing field: messages[1].role"),
        (
            &one(r#"{"role":"user"}"#),
            "Missing field: messages[1].content",
        ),
        (
            &one(r#"{"content":"a"}"#),
            "Missing field: messages[1].role",
        ),
        (
            &one(r#"{"role":"tool","content":"a"}"#),
            "Field 'messages[1].role' takes one of system, user, assistant, not 'tool'",
        ),
        (
            &one(r#"{"role":7,"content":"a"}"#),
            "Field 'messages[1].role' takes a string, not 7",
        ),
        (
            &one(r#"{"role":"user","content":null}"#),
            "Field 'messages[1].content' takes a string, not null",
        ),
        (
            &one(r#"{"role":"user","content":"a","name":"b"}"#),
            "Unknown field 'messages[1].name'; the fields are role, content",
        ),
    ]);
}

#[test]
fn what_an_object_does_not_say_is_as_on_the_command_line() {
    let home = Directory::new();
    let model = Tiny::mute()
        .weigh(b'!', b'a', 2.0)
        .weigh(b'!', b'b', 1.9)
        .chain("a!")
        .chain("b!")
        .write(home.join("tiny.gguf"));
    let options = [
        "-n",
        "3",
        "--seed",
        "77",
        "--temp",
        "0",
        "--repeat-penalty",
        "1.5",
    ];
    let bridge = Bridge::with_model(&home, &model, &options);
    let mut client = bridge.connect();
    let answer = client.generate(r#"{"prompt":"a!"}"#);
    assert_eq!((&answer.text[..1], answer.completion_tokens), ("b", 3));
    assert_eq!((answer.seed, &answer.finish_reason[..]), (77, "length"));
    let answer = client.generate(r#"{"prompt":"a!","repeat_penalty":1,"max_tokens":2,"seed":5}"#);
    assert_eq!((&answer.text[..], answer.seed), ("a!", 5));
    // Nothing of one request is left for the next.
    let answer = client.generate(r#"{"prompt":"a!"}"#);
    assert_eq!((&answer.text[..1], answer.seed), ("b", 77));
}

#[test]
fn a_prompt_is_evaluated_again_only_where_it_must_be() {
    let home = Directory::new();
    let bridge = carousel(&home, &["-n", "4"]);
    let mut client = bridge.connect();
    let mut counts = |prompt: &str, fields: &str| {
        let prompt = quoted(prompt);
        let Answer {
            prompt_tokens,
            cached_tokens,
            completion_tokens,
            ..
        } = client.generate(&format!(r#"{{"prompt":{prompt}{fields}}}"#));
        (prompt_tokens, cached_tokens, completion_tokens)
    };
    assert_eq!(counts("abcdefgh", ""), (9, 0, 4));
    assert_eq!(counts("abcdefgh", ""), (9, 8, 4));
    assert_eq!(counts("abcdxxxx", ""), (9, 5, 4));
    assert_eq!(counts("abcdxxxx", r#","cache_prompt":false"#), (9, 0, 4));
    assert_eq!(counts("abcdxxxx", r#","cache_prompt":true"#), (9, 8, 4));
    // What was generated is in the cache, too, but for the last token.
    assert_eq!(counts("abcdxxxxyzabq", ""), (14, 12, 4));
    assert_eq!(counts("b", ""), (2, 1, 4));
}

#[test]
fn an_object_needs_a_model_only_once_it_is_right() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.ask("GENERATE");
    assert_eq!(
        client.expect_error("bad_request"),
        "No request object provided"
    );
    client.expect_refusal(r#"{"prompt":5}"#, "Field 'prompt' takes a string, not 5");
    client.ask(r#"GENERATE {"prompt":"a"}"#);
    assert_eq!(client.expect_error("no_model"), "No model loaded");
}
