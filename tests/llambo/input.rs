//! What llambo makes of its command line and of standard input.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::process::Command;

use crate::harness::{Bridge, Directory, LIMIT, Tiny};
use crate::llambo::commands::{
    Running, ask, bridge_with, expect_failure, expect_text, feed, llambo,
};
use crate::llambo::faults::respond;

/// The number of prompt tokens in a `--json` answer; the tiny models have one for each byte, and
/// one that begins the prompt.
fn prompt_bytes(output: &str) -> usize {
    let (_, rest) = output
        .split_once(r#""prompt_tokens":"#)
        .expect("the reply has statistics");
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse::<usize>().expect("a count") - 1
}

#[test]
fn a_missing_prompt_is_standard_input_newlines_and_all() {
    let (home, _bridge) = bridge_with(&Tiny::mute().chain("\nxyz"));
    for arguments in [&["infer"][..], &["infer", "-"]] {
        expect_text(&feed(&mut llambo(&home, arguments), "one\ntwo\n"), "xyz\n");
        let json = [arguments, &["--json"]].concat();
        let ended = feed(&mut llambo(&home, &json), "one\ntwo\n");
        assert_eq!(prompt_bytes(&ended.output), "one\ntwo\n".len(), "{ended:?}");
    }
}

#[test]
fn standard_input_is_appended_to_a_prompt_after_a_blank_line() {
    let (home, _bridge) = bridge_with(&Tiny::alphabet());
    let ended = feed(
        &mut llambo(&home, &["infer", "--json", "Summarise:"]),
        "text w",
    );
    assert!(ended.output.contains(r#""data":"xyz""#), "{ended:?}");
    assert_eq!(
        prompt_bytes(&ended.output),
        "Summarise:\n\ntext w".len(),
        "{ended:?}"
    );
    let ended = feed(&mut llambo(&home, &["infer", "--json", "Summarise: w"]), "");
    assert_eq!(
        prompt_bytes(&ended.output),
        "Summarise: w".len(),
        "{ended:?}"
    );
}

#[test]
fn a_standard_input_that_stays_open_is_not_waited_for_in_silence() {
    let home = Directory::new();
    // Standard error is what is watched here.
    let script = "\"$0\" infer text 2>&1";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_llambo")]);
    let mut running = Running::start(command.env("LLAMA_CPP_BRIDGE_SOCKET", home.socket()));
    running.wait_for("still waiting for standard input");
}

#[test]
fn quotes_backslashes_and_control_characters_reach_the_model() {
    let (home, _bridge) = bridge_with(&Tiny::alphabet());
    let prompt = "\"\\\u{1}\t\u{e9}\u{1f999} y";
    let ended = ask(&home, &["infer", "--json", prompt]);
    assert!(ended.output.contains(r#""data":"z""#), "{ended:?}");
    assert_eq!(prompt_bytes(&ended.output), prompt.len(), "{ended:?}");
}

#[test]
fn text_with_newlines_is_tokenized_whole() {
    let (home, _bridge) = bridge_with(&Tiny::alphabet());
    let whole = feed(&mut llambo(&home, &["tokenize"]), "a\nb\r\n");
    let parts = ask(&home, &["tokenize", "a"]);
    assert_eq!(
        (whole.code, parts.code),
        (Some(0), Some(0)),
        "{whole:?} {parts:?}"
    );
    let more = whole.output.split_whitespace().count() - parts.output.split_whitespace().count();
    assert_eq!(more, "\nb\r\n".len(), "{whole:?} {parts:?}");
}

#[test]
fn blanks_at_the_start_of_a_text_reach_the_model() {
    let (home, _bridge) = bridge_with(&Tiny::alphabet());
    // The token of a space, of a tab, and of an a.
    for (text, tokens) in [(" a", "259 100\n"), ("\ta", "12 100\n")] {
        let ended = ask(&home, &["tokenize", text]);
        assert_eq!((ended.code, &ended.output[..]), (Some(0), tokens));
        assert_eq!(ended.errors, "");
    }
    let prompt = ask(&home, &["infer", "--temp", "0", "  a"]);
    let without = ask(&home, &["embed", "a"]);
    let with = ask(&home, &["embed", " a"]);
    assert_eq!(prompt.code, Some(0), "{prompt:?}");
    assert_ne!(without.output, with.output);
}

#[test]
fn a_text_that_begins_with_blanks_is_sent_as_it_is() {
    let home = Directory::new();
    let requests = respond(&home, |mut stream, requests| {
        // A netstring ends without a newline.
        let mut request = [0; "11:TOKENIZE  a,".len()];
        let _ = stream.read_exact(&mut request);
        let _ = requests.send(String::from_utf8_lossy(&request).into_owned());
        let _ = stream.write_all(b"{\"status\":\"ok\",\"message\":\"x\",\"tokens\":[]}\n");
    });
    for (arguments, sent) in [
        (["tokenize", " a"], "11:TOKENIZE  a,"),
        (["embed", "\tabcd"], "11:EMBED \tabcd,"),
    ] {
        assert_eq!(ask(&home, &arguments).code, Some(0));
        assert_eq!(requests.recv_timeout(LIMIT).as_deref(), Ok(sent));
    }
}

#[test]
fn no_more_is_read_than_a_bridge_would_take() {
    let (home, _bridge) = bridge_with(&Tiny::alphabet());
    let bound = ["--max-request", "1024"];
    let tokenize = |count: usize| {
        let text = "a".repeat(count);
        feed(
            &mut llambo(&home, &[&["tokenize"], &bound[..]].concat()),
            text,
        )
    };
    let fits = tokenize(1024);
    assert_eq!(fits.output.split(' ').count(), 1024, "{fits:?}");
    let message = "exceeds the limit of 1024 bytes; \
                   raise it with --max-request, here and for the bridge";
    expect_failure(
        &tokenize(1025),
        2,
        &format!("llambo: standard input {message}"),
    );
    // What has no end is not read to it.
    for arguments in [
        "infer x",
        "infer",
        "chat -",
        "embed",
        "detokenize",
        "infer x --grammar-file /dev/zero",
    ] {
        let mut command = Command::new("sh");
        let script = format!("yes 1 | \"$0\" {arguments}");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_llambo")]);
        expect_failure(
            &feed(&mut command, ""),
            2,
            "exceeds the limit of 4194304 bytes",
        );
    }
}

#[test]
fn an_answer_to_a_schema_or_grammar_that_is_cut_is_exit_5() {
    let (home, _bridge) = bridge_with(&Tiny::carousel());
    std::fs::write(home.join("g.gbnf"), "root ::= [a-z]{600}\n").expect("a file can be written");
    let schema = r#"{"const":"abcdef"}"#;
    let cut = "the answer was cut off after 3 tokens (-n raises the limit); it does not match the";
    for (arguments, kind) in [
        (["-j", schema], "schema"),
        (["--grammar-file", "g.gbnf"], "grammar"),
    ] {
        let ended = ask(
            &home,
            &[&["infer", "x", "-n", "3"], &arguments[..]].concat(),
        );
        assert_eq!((ended.code, ended.output.len()), (Some(5), 4), "{ended:?}");
        assert!(ended.errors.contains(&format!("{cut} {kind}")), "{ended:?}");
        let ended = ask(
            &home,
            &[&["infer", "x", "-n", "3", "--json"], &arguments[..]].concat(),
        );
        assert!(
            ended.output.contains(r#""finish_reason":"length""#),
            "{ended:?}"
        );
        assert_eq!(ended.code, Some(5), "{ended:?}");
    }
    // Without a limit of one's own, the bridge's cuts, or the context.
    let ended = ask(&home, &["infer", "x", "--grammar-file", "g.gbnf"]);
    assert_eq!(
        (ended.code, ended.output.len()),
        (Some(5), 257),
        "{ended:?}"
    );
    let ended = ask(
        &home,
        &["infer", "x", "-n", "-1", "--grammar-file", "g.gbnf"],
    );
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(ended.errors.contains("the context is full"), "{ended:?}");
    let mut map = llambo(&home, &["map", "-n", "3", "-j", schema]);
    let ended = feed(&mut map, "x\n");
    assert_eq!(ended.output, format!("error: {cut} schema\n"));
    assert_eq!(ended.errors, format!("llambo: line 1: {cut} schema\n"));
    assert_eq!(ended.code, Some(5));
    expect_text(
        &ask(&home, &["infer", "x", "-n", "40", "-j", schema]),
        "\"abcdef\"\n",
    );
}

#[test]
fn an_empty_prompt_is_a_usage_error() {
    let home = Directory::new();
    for command in ["infer", "chat", "embed", "tokenize", "detokenize"] {
        expect_failure(&ask(&home, &[command]), 2, "no text given");
    }
}

#[test]
fn bytes_that_are_not_utf_8_are_told_with_their_place() {
    let home = Directory::new();
    let ended = feed(&mut llambo(&home, &["infer"]), b"abc\xffd");
    expect_failure(
        &ended,
        2,
        "standard input is not valid UTF-8: byte 0xff at offset 3",
    );
}

#[test]
fn without_a_command_and_a_terminal_llambo_does_not_chat() {
    let home = Directory::new();
    let ended = feed(&mut llambo(&home, &[]), "hello\n");
    expect_failure(&ended, 2, "a chat needs a terminal as standard input");
}

#[test]
fn the_options_of_sampling_reach_the_bridge() {
    let (home, _bridge) = bridge_with(&Tiny::carousel());
    expect_text(&ask(&home, &["infer", "-n", "3", "a"]), "bcd\n");
    expect_text(
        &ask(&home, &["infer", "-n5", "--max-tokens=2", "a"]),
        "bc\n",
    );
    expect_text(
        &ask(&home, &["infer", "--stop", "xyz", "--stop", "fg", "a"]),
        "bcde\n",
    );
    expect_text(
        &ask(&home, &["infer", "a", "--stop", "f\"g", "--stop", "e"]),
        "bcd\n",
    );
    let hot = [
        "--temp", "900", "--top-k", "0", "--top-p", "1", "--min-p", "0",
    ];
    let hot = |more: &[&str]| {
        ask(
            &home,
            &[&["infer", "a", "-n", "8"][..], &hot, more].concat(),
        )
        .output
    };
    assert_eq!(
        hot(&["--seed", "4294967295"]),
        hot(&["--seed", "4294967295"])
    );
    assert_ne!(hot(&["--seed", "1"]), "bcdefghi\n");
    assert_eq!(hot(&["--seed", "1", "--top-k", "1"]), "bcdefghi\n");
}

#[test]
fn a_seed_of_minus_one_is_a_random_one_whatever_the_bridge_has() {
    let home = Directory::new();
    let model = Tiny::mute()
        .choice(b'a', "abcdefghijklmnop")
        .write(home.join("tiny.gguf"));
    let _bridge = Bridge::with_model(&home, &model, &["--temp", "1", "--seed", "7"]);
    let seed = |more: &[&str]| {
        let ended = ask(
            &home,
            &[&["infer", "a", "-n", "1", "--json"], more].concat(),
        );
        assert_eq!(
            (ended.code, ended.errors.as_str()),
            (Some(0), ""),
            "{ended:?}"
        );
        let (_, seed) = ended.output.split_once(r#""seed":"#).expect("it is told");
        seed.trim_end_matches(['}', '\n']).to_string()
    };
    assert_eq!(seed(&[]), "7");
    assert_eq!(seed(&["--seed", "-1", "--seed", "3"]), "3");
    let drawn = [seed(&["--seed", "-1"]), seed(&["--seed=-1"])];
    assert_ne!(drawn[0], drawn[1]);
    assert!(!drawn.contains(&"7".to_string()), "{drawn:?}");
    let mut map = llambo(&home, &["map", "--seed", "-1", "-n", "1"]);
    let ended = feed(&mut map, "a\n".repeat(20));
    let answers: BTreeSet<&str> = ended.output.lines().collect();
    assert!(answers.len() > 1, "each line has the same seed: {ended:?}");
}

#[test]
fn the_penalties_reach_the_bridge() {
    // After an a come a and b alike: a penalty on what occurred leaves only b.
    let (home, _bridge) = bridge_with(&Tiny::mute().choice(b'a', "ab"));
    for option in [
        "--repeat-penalty",
        "--presence-penalty",
        "--frequency-penalty",
    ] {
        let ended = ask(
            &home,
            &["infer", "aa", option, "1.9", "--repeat-last-n", "8"],
        );
        expect_text(&ended, "b\n");
    }
}

#[test]
fn ignore_eos_goes_on_past_the_end() {
    let (home, _bridge) = bridge_with(&Tiny::alphabet());
    let ended = ask(&home, &["infer", "--json", "--ignore-eos", "-n", "30", "a"]);
    assert!(
        ended.output.contains(r#""completion_tokens":30"#),
        "{ended:?}"
    );
}

#[test]
fn grammars_and_schemas_constrain_the_answer() {
    let (home, _bridge) = bridge_with(&Tiny::alphabet());
    std::fs::write(home.join("g.gbnf"), "root ::= \"no\"\n").expect("a file can be written");
    expect_text(
        &ask(&home, &["infer", "a", "--grammar-file", "g.gbnf"]),
        "no\n",
    );
    let schema = "{\n  \"const\": \"b\"\n}\n";
    std::fs::write(home.join("s.json"), schema).expect("a file can be written");
    expect_text(
        &ask(&home, &["infer", "a", "--json-schema-file", "s.json"]),
        "\"b\"\n",
    );
    expect_text(&ask(&home, &["infer", "a", "-j", schema]), "\"b\"\n");
    let both = ["infer", "a", "-j", "{}", "--grammar-file", "g.gbnf"];
    expect_failure(&ask(&home, &both), 2, "use only one of");
    expect_failure(
        &ask(&home, &["infer", "a", "-j", "{"]),
        2,
        "--json-schema: Not valid JSON at byte 1: expected the name of a field",
    );
    expect_failure(
        &ask(&home, &["infer", "a", "-j", "[]"]),
        2,
        "a JSON schema is an object",
    );
    let ended = ask(&home, &["infer", "a", "--grammar-file", "none"]);
    expect_failure(&ended, 2, "cannot read none: No such file");
}

#[test]
fn an_answer_that_the_bridge_cuts_is_told_unless_it_was_asked_for() {
    let (home, _bridge) = bridge_with(&Tiny::carousel());
    let ended = ask(&home, &["infer", "a"]);
    assert_eq!(
        (ended.code, ended.output.len()),
        (Some(0), 257),
        "{ended:?}"
    );
    assert!(
        ended
            .errors
            .contains("the answer was cut off after 256 tokens"),
        "{ended:?}"
    );
    let ended = ask(&home, &["infer", "-n", "-1", "a"]);
    assert!(ended.errors.contains("the context is full"), "{ended:?}");
}

#[test]
fn a_bad_command_line_says_what_would_be_right() {
    let home = Directory::new();
    let cases: &[(&[&str], &str)] = &[
        (
            &["fly"],
            "unknown command 'fly'; the commands are ping, status,",
        ),
        (&["--fly", "ping"], "--fly"),
        (&["-x"], "-x"),
        (
            &["ping", "pong"],
            "ping takes no operand, but was given 'pong'",
        ),
        (&["load"], "load needs PATH"),
        (
            &["infer", "two", "words"],
            "infer takes one PROMPT; unexpected 'words'",
        ),
        (
            &["detokenize", "12", "x"],
            "detokenize takes tokens as whole numbers, not 'x'",
        ),
        (
            &["ping", "--temp", "1"],
            "--temp is not an option of ping, only of infer, chat, map",
        ),
        (
            &["infer", "--template", "{}"],
            "--template is not an option of infer, only of map",
        ),
        (
            &["infer", "--temp", "warm"],
            "--temp takes a number from 0 to 1000, not 'warm'",
        ),
        (
            &["infer", "--top-p", "1.1"],
            "--top-p takes a number from 0 to 1, not '1.1'",
        ),
        (
            &["infer", "-n", "-2"],
            "--max-tokens takes a whole number from -1 to 1048576, not '-2'",
        ),
        (&["infer", "--seed", "4294967296"], "from -1 to 4294967295"),
        (
            &["infer", "--temp", "nan"],
            "--temp takes a number from 0 to 1000, not 'nan'",
        ),
        (
            &["ping", "--timeout", "0"],
            "--timeout takes a number from 0.001 to 86400, not '0'",
        ),
        (
            &["ping", "--trust-uid", "root"],
            "--trust-uid takes a whole number from 0",
        ),
        (&["ping", "-s", "tcp:host"], "use tcp:HOST:PORT"),
        (&["ping", "-s", ""], "the socket path is empty"),
        (
            &["map", "--template", "none"],
            "--template needs {} where the line goes",
        ),
        (
            &["map", "--chat", "--embed"],
            "use only one of --chat and --embed",
        ),
        (&["map", "--system", "short"], "--system needs --chat"),
        (&["map", "--embed", "-n", "3"], "--embed generates nothing"),
        (
            &["--completions", "csh"],
            "--completions takes bash, zsh, fish, not 'csh'",
        ),
        (&["infer", "-n"], "missing argument for option '-n'"),
    ];
    for (arguments, message) in cases {
        expect_failure(&ask(&home, arguments), 2, message);
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    let home = Directory::new();
    expect_text(
        &ask(&home, &["-V"]),
        concat!("llambo ", env!("CARGO_PKG_VERSION"), "\n"),
    );
    let ended = ask(&home, &["--help"]);
    assert!(
        ended
            .output
            .starts_with("Usage: llambo [OPTION]... COMMAND"),
        "{ended:?}"
    );
    let wide = ended.output.lines().find(|line| line.len() > 79);
    assert_eq!(wide, None, "a line does not fit a terminal");
    let ended = ask(&home, &["ping", "--help"]);
    assert!(
        ended.output.starts_with("Usage: llambo [OPTION]... ping\n"),
        "{ended:?}"
    );
    assert!(!ended.output.contains("--temp"), "{ended:?}");
    assert_eq!((ended.code, ended.errors.as_str()), (Some(0), ""));
}
