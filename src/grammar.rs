//! What llama.cpp does not check of a grammar (GBNF) itself.

/// Looks for repetitions that end before they begin, such as `"a"{5,2}`: llama.cpp would go on
/// repeating until there is no memory left.
///
/// # Errors
/// A sentence that shows the repetition.
pub(crate) fn check(grammar: &str) -> Result<(), String> {
    let mut rest = grammar.chars();
    while let Some(character) = rest.next() {
        match character {
            '"' => skip(&mut rest, '"'),
            '[' => skip(&mut rest, ']'),
            '#' => {
                rest.find(|c| *c == '\n');
            }
            '{' => {
                let inside = rest.as_str().split('}').next().unwrap_or_default();
                check_repetition(inside)?;
            }
            _ => (),
        }
    }
    Ok(())
}

/// Skips to the end of a literal or a character class, escapes included.
fn skip(rest: &mut std::str::Chars<'_>, end: char) {
    while let Some(character) = rest.next() {
        if character == '\\' {
            rest.next();
        } else if character == end {
            return;
        }
    }
}

fn check_repetition(inside: &str) -> Result<(), String> {
    let Some((least, most)) = inside.split_once(',') else {
        return Ok(());
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    if let (Some(least), Some(most)) = (number(least), number(most))
        && least > most
    {
        return Err(format!("the repetition {{{inside}}} ends before it begins"));
    }
    Ok(())
}
