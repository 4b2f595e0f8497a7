//! The scripts that complete llambo's command line, in the shells themselves.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use crate::harness::{Directory, skip};
use crate::llambo::commands::{Running, ask, feed};
use crate::llambo::manual::{OptionHelp, commands, options, shells};

/// The long options of a command, or those of the interactive chat, which has none.
fn long_options(command: &str) -> BTreeSet<String> {
    let belongs = |option: &OptionHelp| option.belongs_to(command);
    options()
        .into_iter()
        .filter(belongs)
        .map(|option| format!("--{}", option.long))
        .collect()
}

/// Writes a shell's completion script and gives its path.
fn script(home: &Directory, shell: &str) -> String {
    let text = ask(home, &["--completions", shell]).output;
    assert!(text.contains("llambo"), "{text}");
    let path = home.join(shell);
    fs::write(&path, text).expect("a file can be written");
    path.display().to_string()
}

/// What a shell prints, a word a line, or `None` if there is no such shell here.
fn shell(home: &Directory, command: &[&str]) -> Option<BTreeSet<String>> {
    if Command::new(command[0]).arg("--version").output().is_err() {
        skip(&format!("{} is not installed", command[0]));
        return None;
    }
    let mut run = Command::new(command[0]);
    let ended = feed(run.args(&command[1..]).env("HOME", home.path()), "");
    assert_eq!(
        (ended.code, ended.errors.as_str()),
        (Some(0), ""),
        "{command:?}: {ended:?}"
    );
    let word = |line: &str| line.split('\t').next().unwrap_or_default().to_string();
    Some(ended.output.lines().map(word).collect())
}

#[test]
fn bash_completes_every_command_and_option() {
    let home = Directory::new();
    let file = script(&home, "bash");
    let complete = |words: &str| {
        let script = format!(
            "source {file}; COMP_WORDS=(llambo {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _llambo 2>/dev/null; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        shell(&home, &["bash", "--norc", "-c", &script]).expect("bash is installed")
    };
    let names: BTreeSet<String> = commands().into_iter().collect();
    assert_eq!(complete("''"), names);
    assert_eq!(
        complete("-s map ''"),
        names,
        "the value of an option is not a command"
    );
    for command in commands() {
        assert_eq!(complete(&format!("{} --", command)), long_options(&command));
    }
    assert_eq!(
        complete("infer --json-schema-f"),
        ["--json-schema-file".to_string()].into()
    );
    assert_eq!(complete("--completions ''"), shells().into_iter().collect());
}

#[test]
fn fish_completes_every_command_and_option() {
    let home = Directory::new();
    let file = script(&home, "fish");
    let complete = |words: &str| {
        let script = format!("source {file}; complete -C 'llambo {words}'");
        shell(&home, &["fish", "--no-config", "-c", &script])
    };
    let Some(names) = complete("") else { return };
    assert_eq!(names, commands().into_iter().collect());
    for command in commands() {
        let found = complete(&format!("{} --", command)).expect("fish is installed");
        assert_eq!(found, long_options(&command), "{}", command);
    }
}

#[test]
fn zsh_completes_every_command_and_option() {
    let home = Directory::new();
    let file = script(&home, "zsh");
    let text = fs::read_to_string(&file).expect("the script can be read");
    for option in options() {
        let name = format!("--{}", option.long);
        let line = text
            .lines()
            .find(|line| line.contains(&format!("{name}'")) || line.contains(&format!("{name}}}")));
        let line = line.unwrap_or_else(|| panic!("no {name}"));
        let condition = option.commands.join("|");
        assert!(
            line.contains(&condition),
            "{name} is not for {condition}: {line}"
        );
    }
    for command in commands() {
        assert!(text.contains(&format!("'{}:", command)), "{}", command);
    }
    if shell(&home, &["zsh", "-n", &file]).is_none() {
        return;
    }
    let mut command = Command::new("script");
    command
        .args(["-qec", "zsh -f -i", "/dev/null"])
        .env("TERM", "dumb")
        .env("HOME", home.path());
    command.current_dir(home.path()).stderr(Stdio::null());
    let mut zsh = Running::start(&mut command);
    zsh.write("stty cols 150 rows 200; autoload -Uz compinit; compinit -D\n");
    zsh.write(&format!("source {file}; echo loaded now\n"));
    zsh.wait_for("\nloaded now");
    zsh.write("llambo \t\t");
    for command in commands() {
        zsh.wait_for(&format!("{} ", command));
    }
    zsh.write("\u{15}llambo map --\t\t");
    for option in long_options("map") {
        zsh.wait_for(&format!("{option} "));
    }
}
