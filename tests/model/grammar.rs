//! Grammars: an answer that follows one from its first token, and ends where it ends.

use miniserde::json::{self, Value};

use crate::harness::{Bridge, Client, Directory, Tiny, failure, quoted, smollm2_or_skip};

const JSON: &str = include_str!("grammars/json.gbnf");
const ARITHMETIC: &str = include_str!("grammars/arithmetic.gbnf");
const LIST: &str = include_str!("grammars/list.gbnf");
const CHESS: &str = include_str!("grammars/chess.gbnf");

/// The object of a request with this grammar.
fn with_grammar(prompt: &str, grammar: &str, fields: &str) -> String {
    let (prompt, grammar) = (quoted(prompt), quoted(grammar));
    format!(r#"{{"prompt":{prompt},"grammar":{grammar}{fields}}}"#)
}

#[test]
fn an_answer_follows_its_grammar_and_ends_with_it() {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    for (grammar, text) in [
        // Nothing that the model would say.
        (r#"root ::= "xyz""#, "xyz"),
        // What the model says anyhow, as far as it may.
        ("root ::= [a-z]{5}", "bcdef"),
        ("root ::= [a-c]{2} word\nword ::= [x-z] \"!\"?", "bcx"),
        ("root ::= \"bcd\" | \"bcx\"", "bcd"),
        (
            "root ::= \"\u{e9}\u{20ac}\" [\u{1f600}-\u{1f602}]",
            "\u{e9}\u{20ac}\u{1f600}",
        ),
        (r#"root ::= """#, ""),
    ] {
        let answer = client.generate(&with_grammar("a", grammar, r#","stream":true"#));
        assert_eq!(answer.text, text, "{grammar}");
        assert_eq!(answer.pieces.concat(), text, "{grammar}");
        assert_eq!(answer.finish_reason, "stop", "{grammar}");
        assert_eq!(answer.completion_tokens as usize, text.len(), "{grammar}");
    }
    // The next request is free again.
    assert_eq!(
        client.generate(r#"{"prompt":"a","max_tokens":3}"#).text,
        "bcd"
    );
}

#[test]
fn a_grammar_without_end_ends_as_any_text_does() {
    let home = Directory::new();
    let model = Tiny::carousel().context(64).write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    let mut finish = |fields: &str| {
        let answer = client.generate(&with_grammar("a", "root ::= [a-z]+", fields));
        (answer.text.len(), answer.finish_reason)
    };
    assert_eq!(finish(r#","max_tokens":7"#), (7, "length".to_string()));
    assert_eq!(finish(r#","max_tokens":-1"#), (63, "context".to_string()));
    assert_eq!(finish(r#","stop":"de""#), (2, "stop".to_string()));
}

#[test]
fn what_is_drawn_by_chance_follows_the_grammar() {
    let home = Directory::new();
    let model = "!abcdefgh"
        .bytes()
        .fold(Tiny::mute(), |model, byte| model.choice(byte, "abcdefgh"));
    let bridge = Bridge::with_model(&home, &model.write(home.join("dice.gguf")), &[]);
    let mut client = bridge.connect();
    let mut texts = Vec::new();
    for seed in 0..20 {
        let fields = format!(r#","temperature":1,"seed":{seed}"#);
        let request = with_grammar("!", "root ::= ([ace] [bd]){4}", &fields);
        let answer = client.generate(&request);
        let right = |(at, letter): (usize, char)| ["ace", "bd"][at % 2].contains(letter);
        assert!(answer.text.chars().enumerate().all(right), "{answer:?}");
        assert_eq!((answer.text.len(), &answer.finish_reason[..]), (8, "stop"));
        assert_eq!(client.generate(&request).text, answer.text);
        texts.push(answer.text);
    }
    texts.sort();
    texts.dedup();
    assert!(texts.len() > 15, "{texts:?}");
}

#[test]
fn penalties_count_what_was_generated_under_a_grammar() {
    let home = Directory::new();
    let model = Tiny::mute()
        .weigh(b'!', b'a', 2.0)
        .weigh(b'!', b'b', 1.9)
        .chain("a!")
        .chain("b!");
    let bridge = Bridge::with_model(&home, &model.write(home.join("tiny.gguf")), &[]);
    let fields = r#","max_tokens":7,"frequency_penalty":1"#;
    let request = with_grammar("!", "root ::= [ab!]+", fields);
    // As without a grammar: after two an a is less likely than b.
    assert_eq!(bridge.connect().generate(&request).text, "a!a!b!a");
}

#[test]
fn an_end_that_the_grammar_does_not_allow_is_not_chosen() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    let mut text = |prompt: &str, fields: &str| {
        client
            .generate(&with_grammar(prompt, "root ::= [x-z]{3}", fields))
            .text
    };
    // After z the model would end, and may not yet.
    assert_eq!(text("w", ""), "xyz");
    assert_eq!(text("x", "").len(), 3);
    assert_eq!(text("x", r#","ignore_eos":true"#).len(), 3);
}

#[test]
fn a_grammar_that_no_token_can_follow_is_an_error() {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    client.ask(&format!(
        "GENERATE {}",
        with_grammar("a", "root ::= [z-a]", "")
    ));
    client.expect(&failure(
        "bad_request",
        "No token of the model's vocabulary can continue the grammar",
    ));
    assert_eq!(
        client.generate(r#"{"prompt":"a","max_tokens":3}"#).text,
        "bcd"
    );
}

#[test]
fn a_grammar_is_looked_at_only_where_there_is_a_model() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    bridge.connect().exchange(
        &format!("GENERATE {}", with_grammar("a", "nonsense", "")),
        &failure("no_model", "No model loaded"),
    );
}

/// Has SmolLM2 answer under a grammar, by chance, and checks every answer that is complete; all
/// but `unfinished` of them must be.
fn check_real(prompt: &str, grammar: &str, unfinished: usize, valid: impl Fn(&str) -> bool) {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client: Client = bridge.connect();
    let mut cut = 0;
    for seed in 1..=4 {
        let fields = format!(r#","temperature":0.8,"seed":{seed},"max_tokens":120"#);
        let answer = client.generate(&with_grammar(prompt, grammar, &fields));
        if answer.finish_reason == "stop" {
            assert!(valid(&answer.text), "seed {seed}: {:?}", answer.text);
        } else {
            cut += 1;
        }
    }
    assert!(cut <= unfinished, "{cut} answers did not end");
}

#[test]
fn a_real_model_writes_json() {
    check_real(
        "A city as a JSON object with its name and its country: ",
        JSON,
        2,
        |text| matches!(json::from_str(text), Ok(Value::Object(_))),
    );
}

#[test]
fn a_real_model_writes_arithmetic() {
    check_real("Three sums:\n1 + 2 = 3\n", ARITHMETIC, 0, |text| {
        let lines: Vec<&str> = text.split_terminator('\n').collect();
        let equation = |line: &&str| {
            let parts = line.split_once(" = ");
            parts.is_some_and(|(sum, term)| whole(sum, sum_of) && whole(term, term_of))
        };
        text.ends_with('\n') && (1..=3).contains(&lines.len()) && lines.iter().all(equation)
    });
}

/// Whether the reader takes the whole text.
fn whole(text: &str, read: fn(&str) -> Option<&str>) -> bool {
    read(text) == Some("")
}

/// Reads two to four terms with a sign between each; gives what stands behind.
fn sum_of(text: &str) -> Option<&str> {
    let mut rest = term_of(text)?;
    for count in 1.. {
        let sign = [" + ", " - ", " * ", " / "].iter();
        let next = sign.filter_map(|sign| rest.strip_prefix(sign)).next();
        match next {
            Some(next) if count < 4 => rest = term_of(next)?,
            _ => return (count > 1).then_some(rest),
        }
    }
    None
}

/// Reads a number, a name or a sum in parentheses.
fn term_of(text: &str) -> Option<&str> {
    if let Some(inner) = text.strip_prefix('(') {
        return sum_of(inner)?.strip_prefix(')');
    }
    let first = text.chars().next()?;
    let (more, longest) = match first {
        '0' => return Some(&text[1..]),
        '1'..='9' => ("0123456789", 4),
        'a'..='z' => ("abcdefghijklmnopqrstuvwxyz0123456789_", 4),
        _ => return None,
    };
    let length = text
        .chars()
        .take_while(|letter| more.contains(*letter))
        .count();
    (length <= longest).then(|| &text[length..])
}

#[test]
fn a_real_model_writes_a_list() {
    check_real("What to buy:\n", LIST, 0, |text| {
        let lines: Vec<&str> = text.split_terminator('\n').collect();
        let item = |line: &&str| {
            let item = line.strip_prefix("- ");
            item.is_some_and(|item| (1..=40).contains(&item.chars().count()))
        };
        text.ends_with('\n') && (2..=4).contains(&lines.len()) && lines.iter().all(item)
    });
}

#[test]
fn a_real_model_writes_moves_of_chess() {
    check_real("A game of chess:\n", CHESS, 0, |text| {
        let lines: Vec<&str> = text.split_terminator('\n').collect();
        let pair = |(number, line): (usize, &&str)| {
            let moves = line.strip_prefix(&format!("{number}. "));
            let moves = moves.and_then(|moves| moves.split_once(' '));
            moves.is_some_and(|(white, black)| is_move(white) && is_move(black))
        };
        text.ends_with('\n') && lines.len() == 3 && (1..).zip(&lines).all(pair)
    });
}

/// Whether this is a move of chess, as far as its letters tell.
fn is_move(text: &str) -> bool {
    let text = text.strip_suffix(['+', '#']).unwrap_or(text);
    if ["O-O", "O-O-O"].contains(&text) {
        return true;
    }
    let (text, promoted) = match text.rsplit_once('=') {
        Some((text, piece)) if ["N", "B", "Q", "R"].contains(&piece) => (text, true),
        Some(_) => return false,
        None => (text, false),
    };
    let file = |letter: char| ('a'..='h').contains(&letter);
    let rank = |letter: char| ('1'..='8').contains(&letter);
    let letters: Vec<char> = text.chars().collect();
    let [start @ .., to_file, to_rank] = &letters[..] else {
        return false;
    };
    if !file(*to_file) || !rank(*to_rank) {
        return false;
    }
    match start {
        [] => true,
        [from, 'x'] if file(*from) => true,
        [piece, from @ ..] if "NBRQK".contains(*piece) && !promoted => {
            let from: String = from.iter().collect();
            let from = from.strip_suffix('x').unwrap_or(&from);
            let from = from.strip_prefix(file).unwrap_or(from);
            from.strip_prefix(rank).unwrap_or(from).is_empty()
        }
        _ => false,
    }
}
