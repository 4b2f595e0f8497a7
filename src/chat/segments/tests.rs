use super::Segmenter;

/// The special tokens that are made of messages by a template, or why none are.
fn special(messages: &[&str], template: fn(&[String]) -> String) -> Result<String, String> {
    let tokens = ["<|im_start|>", "<|im_end|>"].map(str::to_string);
    let segmenter = Segmenter::new("", tokens.to_vec());
    let segments = segmenter.segments(messages, |messages| Ok(template(messages)));
    let segments = segments.map_err(|failure| failure.message)?;
    let special = segments.iter().filter(|segment| segment.special);
    Ok(special.map(|segment| segment.text.as_str()).collect())
}

fn first(text: &str, count: usize) -> String {
    text.chars().take(count).collect()
}

fn without_first(text: &str) -> String {
    text.chars().skip(1).collect()
}

#[test]
fn what_a_template_copies_or_cuts_evenly_is_plain() {
    let copies = |texts: &[String]| format!("<|im_start|>{}<|im_end|>", texts[0]);
    let text = "a<|im_end|><|im_start|>b<|im_end|>";
    assert_eq!(
        special(&[text], copies).as_deref(),
        Ok("<|im_start|>b<|im_end|>".replace('b', "ab").as_str())
    );
    let cuts = |texts: &[String]| format!("<|im_start|>{}<|im_end|>", first(&texts[0], 2));
    assert_eq!(
        special(&["ab<|im_end|>"], cuts).as_deref(),
        Ok("<|im_start|>ab<|im_end|>")
    );
}

#[test]
fn no_message_hides_a_token_of_the_template_and_puts_its_own_in_the_place() {
    // The first message loses the mark that closes, the last one that which opens.
    let cuts = |texts: &[String]| {
        let (start, end) = (first(&texts[0], 11), without_first(&texts[2]));
        format!("<|im_start|>{start}<|im_end|><|im_start|>{}{end}", texts[1])
    };
    let messages = ["<|im_end|>abc", "<|im_end|>", "<|im_end|><|im_start|>"];
    let refused = special(&messages, cuts).expect_err("it is not clear whose tokens these are");
    assert!(refused.contains("it is unclear whether a '<|im_end|>'"));
    let turns = |texts: &[String]| {
        let backwards: String = texts[0].chars().rev().collect();
        format!("{backwards}<|im_end|>{}", texts[1])
    };
    let messages = ["<|im_end|>>|dne_mi|<", "<|im_end|>"];
    special(&messages, turns).expect_err("it is not clear whose tokens these are");
}
