//! What a cache with a window that has slid, or a recurrent state, gives back: not any token, but
//! what is behind a checkpoint.

use crate::harness::tiny::Architecture;
use crate::harness::{Answer, Bridge, Client, Directory, Tiny, failure, process};
use crate::model::batch::{at_once, object, one_by_one, wanderer};

/// A window of 16 tokens for each of eight requests, and 32 tokens at a time: all that slide past
/// 256 cells is lost.
const SLIDING: [&str; 6] = ["-c", "4096", "--ubatch-size", "32", "--batch-size", "512"];

/// Ticks of work after which a request is taken to be well under way.
const UNDER_WAY: u64 = 20;

/// After the letter of a prompt comes another one by chance; an X is never forgotten, but by the
/// windows that have slid past it.
fn bridge_with(home: &Directory, architecture: Architecture, more: &[&str]) -> Bridge {
    let model = wanderer(architecture).context(4096);
    let model = model.write(home.join("tiny.gguf"));
    Bridge::with_model(home, &model, &[&SLIDING, more].concat())
}

/// So many tokens, which are never the same after one another, and the one that begins each text.
fn long_text(tokens: usize) -> String {
    let letters = (b'a'..=b'z').cycle().map(char::from);
    let numbers = ('0'..='9').flat_map(|digit| std::iter::repeat_n(digit, 37));
    let mixed = letters.zip(numbers.cycle()).flat_map(|(a, b)| [a, b]);
    mixed.take(tokens - 1).collect()
}

/// Asks for a text twice: with what is cached, and without, which has to give the same.
fn generate(client: &mut Client, prompt: &str, tokens: usize) -> Answer {
    let answer = client.generate(&object(prompt, 5, tokens, ""));
    let anew = client.generate(&object(prompt, 5, tokens, r#","cache_prompt":false"#));
    assert_eq!(answer.text, anew.text, "another text with what is cached");
    assert_eq!(anew.cached_tokens, 0);
    answer
}

#[test]
fn the_next_turn_evaluates_only_what_is_new() {
    let home = Directory::new();
    let bridge = bridge_with(&home, Architecture::SlidingWindow, &[]);
    let mut client = bridge.connect();
    let prompt = long_text(700);
    let first = client.generate(&object(&prompt, 5, 300, ""));
    assert_eq!((first.prompt_tokens, first.cached_tokens), (700, 0));
    let second = format!("{prompt}{} and a", first.text);
    // All but the last token, which no other one was chosen after.
    assert_eq!(generate(&mut client, &second, 20).cached_tokens, 999);
}

#[test]
fn the_same_prompt_again_is_evaluated_from_just_before_its_end() {
    let home = Directory::new();
    for architecture in [Architecture::SlidingWindow, Architecture::Recurrent] {
        let bridge = bridge_with(&home, architecture, &[]);
        let mut client = bridge.connect();
        let prompt = long_text(700);
        client.generate(&object(&prompt, 5, 300, ""));
        assert_eq!(generate(&mut client, &prompt, 300).cached_tokens, 696);
        // An X is in the window then, or in the state, and not among what is evaluated again.
        let marked = format!("{}Xabcdefg", long_text(692));
        client.generate(&object(&marked, 5, 300, ""));
        let answer = generate(&mut client, &marked, 300);
        assert_eq!(answer.cached_tokens, 696);
        assert!(answer.text.starts_with("ZZZZ"), "{}", answer.text);
    }
}

#[test]
fn an_answer_that_comes_back_shortened_is_evaluated_from_the_last_checkpoint() {
    let home = Directory::new();
    let bridge = bridge_with(&home, Architecture::SlidingWindow, &[]);
    let mut client = bridge.connect();
    let prompt = long_text(300);
    let first = client.generate(&object(&prompt, 5, 1000, ""));
    let short = format!("{prompt}{} and a", &first.text[..200]);
    // That before the end of the prompt.
    assert_eq!(generate(&mut client, &short, 20).cached_tokens, 296);
    client.generate(&object(&prompt, 5, 1000, ""));
    let longer = format!("{prompt}{} and a", &first.text[..900]);
    // One on the way, 512 tokens after that.
    assert_eq!(generate(&mut client, &longer, 20).cached_tokens, 808);
}

#[test]
fn a_prompt_that_changes_in_the_middle_is_evaluated_from_the_checkpoint_before() {
    let home = Directory::new();
    let bridge = bridge_with(&home, Architecture::SlidingWindow, &[]);
    let mut client = bridge.connect();
    let prompt = long_text(1700);
    client.generate(&object(&prompt, 5, 300, ""));
    let mut changed = prompt.clone();
    changed.replace_range(1200..1210, "XXXXXXXXXX");
    let second = client.generate(&object(&changed, 5, 20, ""));
    assert_eq!(second.cached_tokens, 1024);
    // Two texts part there, so that the third of them need not be evaluated up to there.
    changed.replace_range(1201..1211, "abcdefghij");
    assert_eq!(generate(&mut client, &changed, 20).cached_tokens, 1201);
}

#[test]
fn a_full_window_can_be_cut_anywhere() {
    let home = Directory::new();
    let bridge = bridge_with(&home, Architecture::SlidingWindow, &["--swa-full"]);
    let mut client = bridge.connect();
    let prompt = long_text(1700);
    client.generate(&object(&prompt, 5, 300, ""));
    let mut changed = prompt.clone();
    changed.replace_range(1200..1210, "XXXXXXXXXX");
    assert_eq!(generate(&mut client, &changed, 20).cached_tokens, 1201);
}

#[test]
fn many_in_flight_that_begin_alike_evaluate_it_once() {
    let home = Directory::new();
    for architecture in [Architecture::SlidingWindow, Architecture::Recurrent] {
        let bridge = bridge_with(&home, architecture, &[]);
        let mut client = bridge.connect();
        let shared = long_text(400);
        let objects: Vec<String> = (b'a'..=b'h')
            .map(|letter| format!("{shared}{0}X{0}", char::from(letter)))
            .enumerate()
            .map(|(seed, prompt)| object(&prompt, seed, 60, ""))
            .collect();
        let anew = one_by_one(&mut client, &objects);
        client.exchange("FREE", r#"{"status":"ok","message":"Resources freed"}"#);
        client.load(&home.join("tiny.gguf"));
        let requests = objects.iter().map(|object| format!("GENERATE {object}\n"));
        client.send(requests.collect::<String>());
        for (number, text) in anew.iter().enumerate() {
            let answer = client.answer();
            assert_eq!(answer.text, *text);
            // The first may have got past where they part before the others were here; the
            // checkpoint before its end then serves them.
            let cached = if number == 0 { 0..=0 } else { 399..=400 };
            assert!(cached.contains(&answer.cached_tokens), "{answer:?}");
        }
        assert_eq!(at_once(&mut client, &objects), anew);
    }
}

#[test]
fn windows_that_do_not_fit_side_by_side_take_turns() {
    let home = Directory::new();
    let model = Tiny::heavy().remember(b'X', b'Z');
    let model = model.architecture(Architecture::SlidingWindow);
    let model = model.write(home.join("heavy.gguf"));
    // What these requests hold fits into the context, since they share most of it; but the windows
    // of 16 tokens of 64 requests take all of its 1,024 cells.
    let options = ["-c", "1024", "--parallel", "64"];
    let bridge = Bridge::with_model(&home, &model, &options);
    let mut client = bridge.connect();
    let shared = long_text(50);
    let different: Vec<char> = (b'0'..b'0' + 64).map(char::from).collect();
    let objects: Vec<String> = different
        .iter()
        .map(|own| object(&format!("{shared}{own}{own}{own}{own}abcdef"), 0, 4, ""))
        .collect();
    let texts = at_once(&mut client, &objects);
    for (own, text) in different.iter().zip(&texts) {
        let expected = if *own == 'X' { "ZZZZ" } else { "ghij" };
        assert_eq!(text, expected, "of the request with {own}");
    }
}

#[test]
fn what_a_client_leaves_behind_that_goes_away_is_of_use_and_right() {
    let home = Directory::new();
    let model = Tiny::endless().architecture(Architecture::SlidingWindow);
    let model = model.write(home.join("endless.gguf"));
    let options = ["-n", "-1", "-c", "0", "--ubatch-size", "32"];
    let bridge = Bridge::with_model(&home, &model, &options);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    let prompt = long_text(700);
    client.ask(&format!("STREAM {prompt}"));
    client.piece();
    process::wait_for_work(child, UNDER_WAY);
    client.vanish();
    let mut next = bridge.connect();
    let answer = next.generate(&format!(r#"{{"prompt":"{prompt}","max_tokens":4}}"#));
    assert_eq!((answer.text.as_str(), answer.cached_tokens), ("mnop", 696));
    assert_eq!(bridge.model_process(), child);
}

#[test]
fn a_model_process_that_was_killed_has_no_checkpoints_of_the_one_before() {
    let home = Directory::new();
    let bridge = bridge_with(&home, Architecture::SlidingWindow, &[]);
    let mut client = bridge.connect();
    let prompt = long_text(700);
    let before = client.generate(&object(&prompt, 5, 300, "")).text;
    let child = bridge.model_process();
    client.ask(&format!("GENERATE {}", object(&prompt, 5, 3000, "")));
    process::wait_for_work(child, UNDER_WAY);
    process::signal(child, "KILL");
    client.expect(&failure(
        "model_died",
        "Model process died: killed by SIGKILL",
    ));
    let after = client.generate(&object(&prompt, 5, 300, ""));
    assert_eq!((after.text, after.cached_tokens), (before, 0));
}

#[test]
fn turns_of_many_conversations_give_the_same_texts_as_evaluated_anew() {
    let home = Directory::new();
    for architecture in [Architecture::SlidingWindow, Architecture::Recurrent] {
        let bridge = bridge_with(&home, architecture, &["--parallel", "3"]);
        let mut client = bridge.connect();
        let mut texts: Vec<String> = (0..5)
            .map(|number| format!("{number}{}", long_text(150 + 120 * number)))
            .collect();
        for turn in 0..4 {
            let objects: Vec<String> = texts
                .iter()
                .enumerate()
                .map(|(seed, text)| object(text, seed, 40 + 10 * turn, ""))
                .collect();
            let answers = at_once(&mut client, &objects);
            assert_eq!(answers, one_by_one(&mut client, &objects));
            for (text, answer) in texts.iter_mut().zip(&answers) {
                // Every other turn with an X in place of the answer's end.
                let end = answer.len().saturating_sub(10 * (turn % 2));
                *text += &answer[..end];
                *text += ["then", "and X, m"][turn % 2];
            }
        }
    }
}
