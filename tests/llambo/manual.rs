//! llambo's manual page: complete, and true of options, commands and exit statuses.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::harness::{Bridge, Directory};
use crate::llambo::commands::{ask, feed, llambo};

/// An option as `--help` shows it.
pub(crate) struct OptionHelp {
    short: Option<String>,
    pub(crate) long: String,
    value: Option<String>,
    /// The commands that it belongs to; none listed means all of them.
    pub(crate) commands: Vec<String>,
}

impl OptionHelp {
    pub(crate) fn belongs_to(&self, command: &str) -> bool {
        self.commands.is_empty() || self.commands.iter().any(|name| name == command)
    }

    /// The `.It` line of the option.
    fn item(&self) -> String {
        let short = self.short.iter().map(|letter| format!("{letter} , "));
        let value = self.value.iter().map(|name| format!(" Ar {name}"));
        let (short, value): (String, String) = (short.collect(), value.collect());
        format!(".It Fl {short}-{}{value}", self.long)
    }

    /// What the option says that it takes, when it is given something else.
    fn takes(&self, home: &Directory) -> String {
        let option = format!("--{}", self.long);
        let errors = ask(home, &[&option, "neither"]).errors;
        let takes = errors.strip_prefix(&format!("llambo: {option} takes "));
        let takes = takes.and_then(|rest| rest.split_once(", not 'neither'"));
        takes.unwrap_or_else(|| panic!("{errors}")).0.to_string()
    }
}

/// The commands that there are, as `--help` shows them.
pub(crate) fn commands() -> Vec<String> {
    let help = ask(&Directory::new(), &["--help"]).output;
    let (_, list) = help.split_once("Commands:\n").expect("there are commands");
    let (list, _) = list.split_once("\n\n").expect("the list ends");
    let name = |line: &str| line.split_whitespace().next().map(String::from);
    list.lines().filter_map(name).collect()
}

/// The options that there are.
pub(crate) fn options() -> Vec<OptionHelp> {
    let help = ask(&Directory::new(), &["--help"]).output;
    let (_, list) = help.split_once("\nOptions").expect("there are options");
    let mut commands = Vec::new();
    let mut options = Vec::new();
    for line in list.lines() {
        if let Some(names) = line.strip_prefix("Options of ") {
            commands = names
                .trim_end_matches(':')
                .split(", ")
                .map(String::from)
                .collect();
        } else if line.starts_with("Options") {
            commands.clear();
        }
        let Some((before, after)) = line.split_once("--").filter(|_| line.starts_with("  ")) else {
            continue;
        };
        let (name, _) = after.split_once("  ").unwrap_or((after, ""));
        let (long, value) = name.split_once(' ').unwrap_or((name, ""));
        options.push(OptionHelp {
            short: before
                .trim()
                .strip_prefix('-')
                .map(|short| short.trim_end_matches(',').into()),
            long: long.to_string(),
            value: Some(value)
                .filter(|value| !value.is_empty())
                .map(String::from),
            commands: commands.clone(),
        });
    }
    assert!(options.len() > 30, "not all of them are found in {help}");
    options
}

/// The shells that completions are made for.
pub(crate) fn shells() -> Vec<String> {
    let home = Directory::new();
    let option = options()
        .into_iter()
        .find(|option| option.long == "completions");
    let takes = option.expect("it is an option").takes(&home);
    takes.split(", ").map(String::from).collect()
}

/// The source of the manual page.
fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/llambo.1");
    fs::read_to_string(path).expect("the manual page can be read")
}

/// The lines of a section of the page.
fn section(page: &str, name: &str) -> String {
    let start = format!(".Sh {name}\n");
    let (_, rest) = page
        .split_once(&start)
        .unwrap_or_else(|| panic!("no section {name}"));
    rest.split("\n.Sh ").next().unwrap_or(rest).to_string()
}

#[test]
fn the_page_describes_every_option_and_no_other() {
    let page = page();
    let described: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with(".It Fl "))
        .collect();
    let known: Vec<String> = options().iter().map(OptionHelp::item).collect();
    let sorted = |list: Vec<&str>| list.into_iter().map(String::from).collect::<BTreeSet<_>>();
    assert_eq!(sorted(described.clone()), known.iter().cloned().collect());
    assert_eq!(described.len(), known.len(), "an option is described twice");
}

#[test]
fn the_page_gives_the_bounds_of_every_number() {
    let page = page();
    let home = Directory::new();
    let numeric = |option: &OptionHelp| {
        matches!(
            option.value.as_deref(),
            Some("N" | "F" | "SECONDS" | "BYTES")
        )
    };
    let options = options();
    let numbers = options.iter().filter(|option| numeric(option));
    for option in numbers {
        let takes = option.takes(&home);
        let (_, bounds) = takes.split_once(" from ").expect("it takes a number");
        let (least, most) = bounds.split_once(" to ").expect("it has bounds");
        let (_, rest) = page
            .split_once(&option.item())
            .expect("the option is described");
        let text = rest.split("\n.It ").next().unwrap_or(rest);
        // A bound that is only the size of the number behind it tells a reader nothing.
        let boundless = most
            .parse::<f64>()
            .is_ok_and(|most| most >= f64::from(i32::MAX));
        assert!(
            boundless || text.contains(most),
            "--{} does not say {most}",
            option.long
        );
        let least = least.replace('-', "\\-");
        let says_least = text.contains(&least);
        assert!(
            says_least || text.contains("0 is off"),
            "--{} does not say {least}",
            option.long
        );
    }
}

#[test]
fn the_page_describes_every_command_and_no_other() {
    let page = section(&page(), "DESCRIPTION");
    let item = |line: &str| line.strip_prefix(".It Cm ").map(|rest| rest.to_string());
    let described: BTreeSet<String> = page
        .lines()
        .filter_map(item)
        .map(|rest| rest.split(' ').next().unwrap_or_default().to_string())
        .collect();
    let known: BTreeSet<String> = commands().into_iter().collect();
    assert_eq!(described, known);
}

#[test]
fn the_help_of_a_command_has_its_options_and_no_other() {
    let home = Directory::new();
    let options = options();
    for name in commands() {
        let help = ask(&home, &["help", &name]).output;
        for option in &options {
            let listed = help
                .split_whitespace()
                .any(|word| word == format!("--{}", option.long));
            assert_eq!(
                listed,
                option.belongs_to(&name),
                "--{} of {name}",
                option.long
            );
        }
    }
}

/// Verbs that llambo sends under another name: `infer`, `chat` and `map` have GENERATE do the work
/// of its kin.
const SENT_OTHERWISE: &[&str] = &["INFER", "STREAM", "CHAT", "GENERATE", "HELP", "AUTH"];

/// Commands that are no verb of their own.
const NO_VERBS: &[&str] = &["infer", "chat", "raw", "map", "ls", "help"];

#[test]
fn llambo_has_a_command_for_each_verb_that_a_bridge_has_and_no_other() {
    let home = Directory::new();
    let _bridge = Bridge::start(&home, &[]);
    let help = feed(&mut llambo(&home, &["raw"]), "HELP\n").output;
    let (_, list) = help.split_once(r#""data":""#).expect("HELP has data");
    let (list, _) = list.split_once('"').expect("the data ends");
    let first = |line: &str| {
        line.split([' ', ':'])
            .next()
            .unwrap_or_default()
            .to_string()
    };
    let verbs: BTreeSet<String> = list.split("\\n").map(first).collect();
    let sent = commands()
        .into_iter()
        .filter(|name| !NO_VERBS.contains(&name.as_str()))
        .map(|name| name.to_ascii_uppercase());
    let known = sent.chain(SENT_OTHERWISE.iter().map(|verb| verb.to_string()));
    assert_eq!(verbs, known.collect());
}

#[test]
fn the_page_lists_every_exit_status() {
    let text = section(&page(), "EXIT STATUS");
    let listed: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix(".It "))
        .collect();
    assert_eq!(listed, ["0", "1", "2", "3", "4", "5", "6", "130"]);
}
