use super::{CHAIN_LIMIT, ELEMENT_LIMIT, MAX_BYTES, WAY_LIMIT, check};

#[test]
fn what_is_at_a_limit_is_taken_and_one_more_is_not() {
    let long = |length: usize| {
        let start = "root ::= \"a\" #";
        format!("{start}{}", "#".repeat(length - start.len()))
    };
    let elements = |count: u64| format!("root ::= \"{}\"", "a".repeat(count as usize - 1));
    // The rule itself is one way.
    let ways = |count: u64| {
        let choices = vec!["\"a\""; count as usize - 1];
        format!("root ::= {}", choices.join(" | "))
    };
    let chain = |count: usize| {
        let rules: String = (2..count)
            .map(|rule| format!("a{rule} ::= a{}\n", rule + 1))
            .collect();
        format!("root ::= a2\n{rules}a{count} ::= \"a\"\n")
    };
    for (taken, refused, named) in [
        (long(MAX_BYTES), long(MAX_BYTES + 1), "1048577"),
        (
            elements(ELEMENT_LIMIT),
            elements(ELEMENT_LIMIT + 1),
            "500000 elements",
        ),
        (ways(WAY_LIMIT), ways(WAY_LIMIT + 1), "10000 ways"),
        (chain(CHAIN_LIMIT), chain(CHAIN_LIMIT + 1), "1000 rules"),
    ] {
        assert_eq!(check(&taken, "root"), Ok(()), "before {named}");
        let reason = check(&refused, "root").expect_err(named);
        assert!(reason.contains(named), "{reason}");
    }
}

#[test]
fn a_rule_may_contain_itself_but_not_begin_with_itself() {
    for text in [
        "root ::= \"a\" root | \"b\"",
        "root ::= \"(\" root? \")\"",
        "root ::= a\na ::= [a] b\nb ::= a?",
        "root ::= (\"a\" | \"b\"+)*",
        "root ::= (\"a\"?){3}",
    ] {
        assert_eq!(check(text, "root"), Ok(()), "{text}");
    }
    for (text, rule) in [
        ("root ::= root", "root"),
        ("root ::= (root)", "root"),
        ("root ::= root{0} \"a\"", "root"),
        ("root ::= \"\" root", "root"),
        ("root ::= \"a\"? root", "root"),
        (
            "root ::= b b root \"x\"\nb ::= c{0,2}\nc ::= | \"z\"",
            "root",
        ),
        // One that the answer does not use: llama.cpp compiles it all the same.
        ("root ::= \"a\"\nx ::= y\ny ::= \"b\" | x", "x"),
        ("root ::= (\"a\"? \"b\"?)+", "root"),
        ("root ::= \"\"*", ""),
    ] {
        match check(text, "root") {
            Ok(()) => assert_eq!(rule, "", "{text}"),
            Err(reason) => {
                assert!(reason.starts_with("left recursion: "), "{text}: {reason}");
                assert!(reason.contains(&format!("'{rule}'")), "{text}: {reason}");
            }
        }
    }
}
