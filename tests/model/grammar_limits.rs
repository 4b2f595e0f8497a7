//! Grammars that llama.cpp could not work with, and what becomes of one that it is lost in.

use crate::harness::process;
use crate::harness::{Bridge, Directory, Tiny, failure, ok, quoted, stand_in};

/// The object of a request with this grammar.
fn with_grammar(prompt: &str, grammar: &str, fields: &str) -> String {
    let (prompt, grammar) = (quoted(prompt), quoted(grammar));
    format!(r#"{{"prompt":{prompt},"grammar":{grammar}{fields}}}"#)
}

/// Expects that each grammar is refused for this reason, by a model process that outlives them.
fn expect_refusals(grammars: &[(&str, &str)]) {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_little_memory(&home, &model);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    for (grammar, reason) in grammars {
        let message = format!("Field 'grammar' cannot be used: {reason}");
        client.expect_refusal(&with_grammar("a", grammar, ""), &message);
    }
    assert_eq!(
        client.generate(r#"{"prompt":"a","max_tokens":3}"#).text,
        "bcd"
    );
    assert_eq!(bridge.model_process(), child);
}

#[test]
fn a_grammar_that_cannot_be_used_is_refused_with_the_reason() {
    expect_refusals(&[
        ("hello", "line 1: expected '::=', found the end"),
        (
            "answer ::= \"a\"",
            "the grammar has no rule 'root', with which it starts",
        ),
        ("# a\nroot\n", "line 2: expected '::=', found '\\n'"),
        ("root ::= unheard", "undefined rule 'unheard'"),
        (
            "root ::= \"a\"\nroot ::= \"b\"",
            "line 2: the rule 'root' is defined twice",
        ),
        (
            "root ::= \"a",
            "line 1: expected the rest of a text, up to '\"', found the end",
        ),
        (
            "root ::= [a-",
            "line 1: expected the rest of a class, up to ']', found the end",
        ),
        ("root ::= (\"a\"", "line 1: expected ')', found the end"),
        (
            "root ::= \"a\")",
            "line 1: expected a newline or the end, found ')'",
        ),
        (
            "root ::= *",
            "line 1: expected a preceding item to repeat, found '*'",
        ),
        (
            "root ::= \"\\x\"",
            "line 1: expected 2 hexadecimal digits, found '\\\"'",
        ),
        (
            "root ::= \"\\q\"",
            "line 1: expected one of x u U t r n \\ \" [ ] - after '\\', found 'q'",
        ),
        ("root ::= \"a\"\u{0}", "it contains a null character"),
        (
            "root ::= <x",
            "line 1: expected the rest of a token, up to '>', found the end",
        ),
        // This one only llama.cpp can know.
        ("root ::= <nonsense>", "invalid token '<nonsense>'"),
    ]);
}

#[test]
fn a_rule_that_can_begin_with_itself_is_refused() {
    let reason = |name: &str| format!("left recursion: the rule '{name}' can begin with itself");
    expect_refusals(&[
        ("root ::= root \"a\"", &reason("root")),
        ("root ::= x\nx ::= y\ny ::= x", &reason("x")),
        // Behind something that can be empty, which llama.cpp itself does not see.
        (
            "root ::= b root \"x\" | \"y\"\nb ::= c\nc ::= | \"z\"",
            &reason("root"),
        ),
        (
            "root ::= (\"a\"?)*",
            "left recursion: in the rule 'root' something that can be empty is repeated without limit",
        ),
    ]);
}

#[test]
fn a_repetition_that_ends_before_it_begins_is_refused() {
    // llama.cpp itself would repeat it for ever, until there is no memory left.
    let reason = |line: usize, what: &str| {
        format!("line {line}: the maximum of {what} is less than its minimum")
    };
    expect_refusals(&[
        ("root ::= \"a\"{5,2}", &reason(1, "{5,2}")),
        ("root ::= ( [a-z] \"b\" ) { 7 , 0 }", &reason(1, "{7,0}")),
        ("root ::= (\"a\"{5 #x\n,2})", &reason(2, "{5,2}")),
        ("root ::= (\"a\"{\n5\n, # {1,2}\n2\n})", &reason(5, "{5,2}")),
        ("root ::= x\nx ::= [}]{05,2}", &reason(2, "{5,2}")),
    ]);
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    for (grammar, text) in [
        // These only look like it.
        ("root ::= \"{5,2}\"", "{5,2}"),
        ("root ::= [{5,2}]{5} \"x\" # {5,2}\n", "{{{{{x"),
        ("root ::= \"{5,2}\"{1,1}", "{5,2}"),
        ("root ::= (\"a\"{2 #x\n,2})", "aa"),
    ] {
        let answer = client.generate(&with_grammar("a", grammar, ""));
        assert_eq!(answer.text.len(), text.len(), "{grammar}: {}", answer.text);
    }
}

#[test]
fn a_grammar_that_would_take_all_memory_or_time_is_refused() {
    let nested = |depth: usize| format!("root ::= {}\"a\"{}", "(".repeat(depth), ")".repeat(depth));
    // Each rule begins in twice as many ways as the next: llama.cpp goes all of them.
    let mut doubling = "root ::= a0\n".to_string();
    let mut chain = doubling.clone();
    for rule in 0..1001 {
        if rule < 15 {
            doubling += &format!("a{rule} ::= a{0} | a{0}\n", rule + 1);
        }
        chain += &format!("a{rule} ::= a{}\n", rule + 1);
    }
    let large = format!("root ::= \"{}\"{{2000}}", "a".repeat(251));
    expect_refusals(&[
        (
            &nested(101),
            "line 1: parentheses are nested more than 100 deep",
        ),
        (
            &(doubling + "a15 ::= \"x\""),
            "the rule 'a4' can begin in more than 10000 ways; factor out common prefixes",
        ),
        (
            &(chain + "a1001 ::= \"x\""),
            "the rule 'a1000' begins with a chain of more than 1000 rules",
        ),
        (
            &large,
            "more than 500000 elements with its repetitions expanded",
        ),
        (
            "root ::= [a-z]{2001}",
            "line 1: 2001 repetitions; the limit is 2000 ({n,} is n or more)",
        ),
        (
            "root ::= [a-z]{0,2001}",
            "line 1: 2001 repetitions; the limit is 2000 ({n,} is n or more)",
        ),
        (
            &format!("root ::= \"{}\"", "a".repeat(1 << 20)),
            "1048587 bytes; the limit is 1048576",
        ),
    ]);
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let answer = bridge
        .connect()
        .generate(&with_grammar("a", &nested(100), ""));
    assert_eq!(answer.text, "a");
}

#[test]
fn a_grammar_that_llama_cpp_is_lost_in_costs_the_model_process_and_no_more() {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    // What the model program does when its alarm comes in the middle of llama.cpp's work.
    let words = "llama.cpp did not finish with the grammar";
    let lost = stand_in(
        &home,
        &format!("read -r request; echo '{words}' >&2; exit 1"),
    );
    let lost = lost.to_str().expect("test paths are UTF-8");
    let bridge = Bridge::with_model(&home, &model, &["--model-program", lost]);
    let mut client = bridge.connect();
    let request = with_grammar("a", "root ::= [a-z]", "");
    // The model comes back each time.
    for _ in 0..2 {
        client.ask(&format!("GENERATE {request}"));
        client.expect(&failure(
            "model_died",
            &format!("Model process died: {words} (exit status 1)"),
        ));
        client.exchange("PING", &ok("pong"));
    }
}

#[test]
fn a_grammar_that_takes_more_memory_than_there_is_fails_alone() {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let child = bridge.model_process();
    // What the process may take for requests is a gibibyte besides a second context.
    let limit = process::data_limit(child).expect("there is a limit");
    let size = process::data_size(child);
    assert!(limit > size + (1 << 29), "{limit} of {size}");
    assert!(limit < size + (1 << 31), "{limit} of {size}");
    // No grammar that is taken needs so much: so for once it gets less.
    process::limit_data(child, size + (2 << 20));
    let rules: String = (1..=40)
        .map(|rule| format!("r{rule} ::= [a-z]{{{rule},1900}}\n"))
        .collect();
    let names: Vec<String> = (1..=40).map(|rule| format!("r{rule}")).collect();
    let grammar = format!("root ::= {}\n{rules}", names.join(" | "));
    let mut client = bridge.connect();
    client.expect_refusal(
        &with_grammar("a", &grammar, ""),
        "Field 'grammar' cannot be used: there is not enough memory for it",
    );
    assert_eq!(
        client.generate(r#"{"prompt":"a","max_tokens":3}"#).text,
        "bcd"
    );
    assert_eq!(bridge.model_process(), child);
}
