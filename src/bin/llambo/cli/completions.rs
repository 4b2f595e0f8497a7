//! The scripts that complete llambo's command line in bash, zsh and fish, made from the tables.

use std::fmt::Write;

use super::table::{COMMANDS, OPTIONS, OptionRow, SHELLS, Takes};

/// The script for one of the [`SHELLS`].
pub fn script(shell: &str) -> String {
    match shell {
        "bash" => bash(),
        "zsh" => zsh(),
        _ => fish(),
    }
}

/// The spellings of an option: `-s --socket`.
fn spellings(option: &OptionRow) -> String {
    match option.short {
        Some(letter) => format!("-{letter} --{}", option.long),
        None => format!("--{}", option.long),
    }
}

/// The names of the commands, separated.
fn command_names(separator: &str) -> String {
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    names.join(separator)
}

/// The spellings of the options that `wanted` picks, as alternatives of a shell pattern.
fn pattern(wanted: impl Fn(&Takes) -> bool) -> String {
    let all: Vec<String> = OPTIONS
        .iter()
        .filter(|option| wanted(&option.takes))
        .map(|option| spellings(option).replace(' ', "|"))
        .collect();
    all.join("|")
}

fn bash() -> String {
    let mut by_command = String::new();
    for command in COMMANDS {
        let options: Vec<String> = OPTIONS
            .iter()
            .filter(|option| option.belongs_to(command.name))
            .map(spellings)
            .collect();
        let _ = writeln!(
            by_command,
            "        {}) options='{}' ;;",
            command.name,
            options.join(" ")
        );
    }
    let all: Vec<String> = OPTIONS.iter().map(spellings).collect();
    format!(
        "# Completes llambo in bash; made by llambo --completions bash.
_llambo() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    local command='' options='' word skip=''
    for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do
        if [[ $skip ]]; then skip=''; continue; fi
        case $word in
            {values}) skip=yes ;;
            {commands}) command=$word; break ;;
        esac
    done
    case $before in
        {paths})
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- \"$current\")
            return ;;
        {choices})
            mapfile -t COMPREPLY < <(compgen -W '{shells}' -- \"$current\")
            return ;;
        {values})
            return ;;
    esac
    case $command in
{by_command}        *) options='{all}' ;;
    esac
    if [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W \"$options\" -- \"$current\")
    elif [[ -z $command ]]; then
        mapfile -t COMPREPLY < <(compgen -W '{words}' -- \"$current\")
    elif [[ $command == load ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- \"$current\")
    fi
}}
complete -F _llambo llambo
",
        values = pattern(|takes| !matches!(takes, Takes::Nothing)),
        commands = command_names("|"),
        paths = pattern(|takes| matches!(takes, Takes::Path(_))),
        choices = pattern(|takes| matches!(takes, Takes::Choice(..))),
        shells = SHELLS.join(" "),
        all = all.join(" "),
        words = command_names(" "),
    )
}

fn zsh() -> String {
    let mut commands = String::new();
    for command in COMMANDS {
        let _ = writeln!(
            commands,
            "        {}",
            quoted(&format!("{}:{}", command.name, command.help))
        );
    }
    let mut specifications = String::new();
    for option in OPTIONS {
        let condition = match option.commands {
            [] => String::new(),
            // Without a command a chat begins, so its options are offered.
            names if names.contains(&"chat") => {
                format!("[[ $command == ({}|) ]] && ", names.join("|"))
            }
            names => format!("[[ $command == ({}) ]] && ", names.join("|")),
        };
        let names = match option.short {
            Some(letter) => format!("{{-{letter},--{}}}", option.long),
            None => format!("--{}", option.long),
        };
        let value = match (option.takes, option.value_name()) {
            (Takes::Path(name), _) => format!(":{name}:_files"),
            (Takes::Choice(name, words), _) => format!(":{name}:({})", words.join(" ")),
            (_, Some(name)) => format!(":{name}: "),
            (_, None) => String::new(),
        };
        let _ = writeln!(
            specifications,
            "    {condition}arguments+=('*'{names}{})",
            quoted(&format!("[{}]{value}", option.help))
        );
    }
    format!(
        "#compdef llambo
# Completes llambo in zsh; made by llambo --completions zsh.
_llambo() {{
    local command='' word
    local -a commands arguments names
    commands=(
{commands}    )
    names=({words})
    for word in ${{words[2,CURRENT-1]}}; do
        if (( ${{names[(Ie)$word]}} )); then command=$word; break; fi
    done
{specifications}    case $command in
        '') arguments+=('1: :{{_describe command commands}}') ;;
        load) arguments+=('*:PATH:_files') ;;
        *) arguments+=('*: : ') ;;
    esac
    _arguments -S : $arguments
}}
if [ \"$funcstack[1]\" = _llambo ]; then _llambo \"$@\"; else compdef _llambo llambo; fi
",
        words = command_names(" "),
    )
}

fn fish() -> String {
    let names = command_names(" ");
    let mut lines = String::from(
        "# Completes llambo in fish; made by llambo --completions fish.\ncomplete -c llambo -f\n",
    );
    for command in COMMANDS {
        let _ = writeln!(
            lines,
            "complete -c llambo -n 'not __fish_seen_subcommand_from {names}' -a {} -d {}",
            command.name,
            quoted_for_fish(command.help)
        );
    }
    for option in OPTIONS {
        let mut line = String::from("complete -c llambo");
        match option.commands {
            [] => {}
            list if list.contains(&"chat") => {
                let others = COMMANDS.iter().map(|command| command.name);
                let others: Vec<&str> = others.filter(|name| !list.contains(name)).collect();
                let others = others.join(" ");
                let _ = write!(line, " -n 'not __fish_seen_subcommand_from {others}'");
            }
            list => {
                let _ = write!(line, " -n '__fish_seen_subcommand_from {}'", list.join(" "));
            }
        }
        if let Some(letter) = option.short {
            let _ = write!(line, " -s {letter}");
        }
        let _ = write!(line, " -l {}", option.long);
        match option.takes {
            Takes::Nothing => {}
            Takes::Path(_) => line.push_str(" -r -F"),
            Takes::Choice(_, words) => {
                let _ = write!(line, " -x -a '{}'", words.join(" "));
            }
            _ => line.push_str(" -x"),
        }
        let _ = writeln!(lines, "{line} -d {}", quoted_for_fish(option.help));
    }
    lines.push_str("complete -c llambo -n '__fish_seen_subcommand_from load' -F\n");
    lines
}

/// A word in the quotes of sh and zsh.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A word in the quotes of fish.
fn quoted_for_fish(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
