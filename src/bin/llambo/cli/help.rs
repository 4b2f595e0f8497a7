//! The texts of `--help`, made from the tables.

use std::fmt::Write;

use super::table::{COMMANDS, CommandRow, OPTIONS, OptionRow};

/// Column at which the explanations start.
const INDENT: usize = 28;

/// The help of the program, or of one command.
pub fn text(command: Option<&CommandRow>) -> String {
    let mut text = String::new();
    if let Some(command) = command {
        let usage = format!(
            "Usage: llambo [OPTION]... {} {}",
            command.name, command.operands
        );
        let _ = writeln!(text, "{}\n  {}\n\nOptions:", usage.trim_end(), command.help);
        for option in OPTIONS
            .iter()
            .filter(|option| option.belongs_to(command.name))
        {
            describe(&mut text, option);
        }
        return text;
    }
    text.push_str(
        "Usage: llambo [OPTION]... COMMAND [OPERAND]...\n       \
         llambo [OPTION]...          (an interactive chat, on a terminal)\n\
         Asks a llama-cpp-bridge from the shell.\n\nCommands:\n",
    );
    for command in COMMANDS {
        let name = format!("  {} {}", command.name, command.operands);
        let _ = writeln!(text, "{:INDENT$}{}", name.trim_end(), command.help);
    }
    text.push_str("\nOptions:\n");
    let mut commands: &[&str] = &[];
    for option in OPTIONS {
        if option.commands != commands {
            commands = option.commands;
            let _ = match commands {
                [] => writeln!(text, "\nOptions that print and exit:"),
                _ => writeln!(text, "\nOptions of {}:", commands.join(", ")),
            };
        }
        describe(&mut text, option);
    }
    text.push_str(
        "\nA PROMPT, MESSAGE or TEXT that is missing or - is read from standard input.\n\
         Exit status: 0 success, 1 error reply, 2 usage, 3 no connection, 4 timeout or\n\
         dead model (worth retrying), 5 answer cut off before it matched its schema or\n\
         grammar, 6 bridge busy, 130 interrupted.\n\
         See llambo(1) for examples.\n",
    );
    text
}

/// Adds the lines of one option.
fn describe(text: &mut String, option: &OptionRow) {
    let short = match option.short {
        Some(letter) => format!("-{letter}, "),
        None => "    ".to_string(),
    };
    let value = match option.value_name() {
        Some(name) => format!(" {name}"),
        None => String::new(),
    };
    let name = format!("  {short}--{}{value}", option.long);
    if name.len() + 1 < INDENT {
        let _ = writeln!(text, "{name:INDENT$}{}", option.help);
    } else {
        let _ = writeln!(text, "{name}\n{:INDENT$}{}", "", option.help);
    }
}
