use super::{Item, NESTING_LIMIT, REPETITION_LIMIT, What, parse};

/// The rules in short: `NAME: SEQUENCE | SEQUENCE; NAME: ...`, with the number of elements of a
/// text, the index of a rule, and the repetitions.
fn shown(text: &str) -> String {
    let (rules, _) = parse(text, "root").unwrap_or_else(|reason| panic!("{text}: {reason}"));
    let item = |item: &Item| {
        let what = match item.what {
            What::Text(elements) => elements.to_string(),
            What::Rule(rule) => format!("#{rule}"),
        };
        match (item.min, item.max) {
            (1, Some(1)) => what,
            (least, None) => format!("{what}{{{least},}}"),
            (least, Some(most)) => format!("{what}{{{least},{most}}}"),
        }
    };
    let sequence = |items: &Vec<Item>| items.iter().map(item).collect::<Vec<_>>().join(" ");
    let rules: Vec<String> = rules
        .iter()
        .map(|rule| {
            let choices: Vec<String> = rule.choices.iter().flatten().map(sequence).collect();
            format!("{}: {}", rule.name, choices.join(" | "))
        })
        .collect();
    rules.join("; ")
}

#[test]
fn grammars_are_read() {
    for (text, expected) in [
        ("root ::=", "root: "),
        (r#"root ::= "abc" "" "#, "root: 3 0"),
        ("root ::= [a-z] [^ab] [] [^] .", "root: 3 2 0 0 1"),
        (
            r#"root ::= "\x41\u00e9\U0001F600\t\r\n\\\"\[\]\-" [\]\-\\]"#,
            "root: 11 3",
        ),
        ("root ::= <think> !<[7]>", "root: 1 1"),
        (
            "# a\n\nroot ::= # b\n a |\n b # c\r\na ::= \"#\"\r\nb ::=",
            "root: #1 | #2; a: 1; b: ",
        ),
        ("root ::= | \"a\" |", "root:  | 1 | "),
        ("root ::= (\"a\"\n|\n\"b\")", "root: #1; root: 1 | 1"),
        (
            r#"root ::= "a"* "b"+ "c"? "d"{2} "e"{2,} "f"{2,3} "g"{0,0} "h"{ 1 , 1 }"#,
            "root: 1{0,} 1{1,} 1{0,1} 1{2,2} 1{2,} 1{2,3} 1{0,0} 1",
        ),
        (
            r#"root ::= "a"{2,3}?*"#,
            "root: #2{0,}; root: 1{2,3}; root: #1{0,1}",
        ),
        (
            "root ::= a-1 A2\na-1 ::= \"a\"\nA2 ::= a-1",
            "root: #1 #2; a-1: 1; A2: #1",
        ),
    ] {
        assert_eq!(shown(text), expected, "{text}");
    }
}

#[test]
fn what_is_no_grammar_is_refused_with_its_line() {
    for (text, reason) in [
        ("", "the grammar has no rule 'root', with which it starts"),
        (
            "a ::= \"b\"",
            "the grammar has no rule 'root', with which it starts",
        ),
        ("root ::= a", "undefined rule 'a'"),
        (
            "\n\n ::= \"a\"",
            "line 3: expected the name of a rule (letters, digits and '-'), found ':'",
        ),
        ("root_a ::= \"a\"", "line 1: expected '::=', found '_'"),
        ("root := \"a\"", "line 1: expected '::=', found '='"),
        ("root\n", "line 1: expected '::=', found '\\n'"),
        (
            "root ::= \"a\"\nroot ::= \"b\"",
            "line 2: the rule 'root' is defined twice",
        ),
        (
            "root ::= \"a\n\n",
            "line 3: expected the rest of a text, up to '\"', found the end",
        ),
        (
            "root ::= [\\",
            "line 1: expected one of x u U t r n \\ \" [ ] - after '\\', found the end",
        ),
        (
            "root ::= \"\\u12g4\"",
            "line 1: expected 4 hexadecimal digits, found 'g'",
        ),
        (
            "root ::= \"\\U0001F60\"",
            "line 1: expected 8 hexadecimal digits, found '\\\"'",
        ),
        ("root ::= !a", "line 1: expected '<', found 'a'"),
        ("root ::= (\"a\"\n", "line 2: expected ')', found the end"),
        (
            "root ::= \"a\")",
            "line 1: expected a newline or the end, found ')'",
        ),
        (
            "root ::= (|?)",
            "line 1: expected a preceding item to repeat, found '?'",
        ),
        (
            "root ::= \"a\"{}",
            "line 1: expected a number of repetitions, found '}'",
        ),
        (
            "root ::= \"a\"{,2}",
            "line 1: expected a number of repetitions, found ','",
        ),
        ("root ::= \"a\"{1-2}", "line 1: expected '}', found '-'"),
        (
            "root ::= \"a\"{2,1}",
            "line 1: the maximum of {2,1} is less than its minimum",
        ),
    ] {
        assert_eq!(parse(text, "root").err().as_deref(), Some(reason), "{text}");
    }
}

#[test]
fn what_is_at_a_limit_is_taken_and_one_more_is_not() {
    let nested = |depth: usize| format!("root ::= {}{}", "(".repeat(depth), ")".repeat(depth));
    let times = |times: &str| format!("root ::= \"a\"{{{times}}}");
    let most = REPETITION_LIMIT;
    let more = REPETITION_LIMIT + 1;
    for (taken, refused, named) in [
        (nested(NESTING_LIMIT), nested(NESTING_LIMIT + 1), "100"),
        (times(&most.to_string()), times(&more.to_string()), "2001"),
        (
            times(&format!("0,{most}")),
            times(&format!("0,{more}")),
            "2001",
        ),
        (
            times(&format!("{most},")),
            times("18446744073709551616,"),
            "18446744073709551616",
        ),
        (
            times(&format!("{}1", "0".repeat(100))),
            times(&"9".repeat(100)),
            "9999999999",
        ),
    ] {
        assert!(parse(&taken, "root").is_ok(), "{taken}");
        let reason = parse(&refused, "root").err().expect("it is too much");
        assert!(reason.starts_with("line 1: "), "{reason}");
        assert!(reason.contains(named), "{reason}");
    }
}

#[test]
fn a_grammar_may_be_cut_anywhere() {
    let text = "root ::= (\"\\x41\" | [a-\\]]{1,2}) b # c\nb ::= <d>? . !<e>\n";
    assert!(parse(text, "root").is_ok());
    for at in 0..text.len() {
        if let Err(reason) = parse(&text[..at], "root") {
            let lines = text[..at].lines().count().max(1);
            let known = reason.starts_with("the grammar has no rule '")
                || reason.starts_with("undefined rule '")
                || (1..=lines).any(|line| reason.starts_with(&format!("line {line}: ")));
            assert!(known, "{}: {reason}", &text[..at]);
        }
    }
}
