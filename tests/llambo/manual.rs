//! llambo's manual page: complete, and every example run.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use crate::harness::{Bridge, Directory, Ended, Tiny, program, skip, smollm2_or_skip, wait_until};
use crate::llambo::commands::{Running, ask, feed, llambo};

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

/// An example of the page.
struct Example {
    title: String,
    script: String,
}

/// The page as a terminal of 80 columns shows it, or `None` if there is no formatter here.
fn rendered() -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/llambo.1");
    let mut mandoc = Command::new("mandoc");
    mandoc.args(["-T", "utf8", "-O", "width=78"]).arg(path);
    let Ok(output) = mandoc.output() else {
        skip("there is no mandoc to show the manual with");
        return None;
    };
    // Bold and underlined letters are struck twice.
    let mut shown = String::new();
    for character in String::from_utf8_lossy(&output.stdout).chars() {
        match character {
            '\u{8}' => drop(shown.pop()),
            other => shown.push(other),
        }
    }
    Some(shown)
}

/// The examples as they are shown, their indentation with them, as a clipboard would hold them.
fn examples() -> Vec<Example> {
    let page = rendered().unwrap_or_default();
    let (_, text) = page.split_once("\nEXAMPLES\n").unwrap_or_default();
    let (text, _) = text.split_once("\nSEE ALSO\n").unwrap_or_default();
    let mut examples: Vec<Example> = Vec::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        match (indent, examples.last_mut()) {
            (3, _) => examples.push(Example {
                title: line.trim().to_string(),
                script: String::new(),
            }),
            (11.., Some(example)) => example.script.push_str(&format!("{line}\n")),
            _ => {}
        }
    }
    examples
}

/// Runs an example in a directory, with that directory's bridge.
fn play(example: &Example, home: &Directory) -> Ended {
    let programs = Path::new(env!("CARGO_BIN_EXE_llambo"))
        .parent()
        .expect("it lies somewhere");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("bash");
    command
        .current_dir(home.path())
        .env("PATH", format!("{}:{path}", programs.display()))
        .env("HOME", home.path())
        .env("XDG_RUNTIME_DIR", home.path());
    let socket = home.socket();
    if example.title.starts_with("The same request") {
        // The default socket may be somebody's: the test's own stands in its place.
        assert!(example.script.contains(DEFAULT_SOCKET), "{}", example.title);
        let socket = socket.display().to_string();
        let script = example.script.replace(DEFAULT_SOCKET, &socket);
        command.env_remove("LLAMA_CPP_BRIDGE_SOCKET");
        let ended = feed(command.args(["-e", "-c", &script]), "");
        assert_eq!(ended.code, Some(0), "{}: {ended:?}", example.title);
        let script = example.script.replace(DEFAULT_SOCKET, "/nonexistent");
        let mut command = Command::new("bash");
        command
            .args(["-e", "-c", &script])
            .env("LLAMA_CPP_BRIDGE_SOCKET", socket);
        assert_eq!(feed(&mut command, "").output, ended.output);
        return ended;
    }
    command.env("LLAMA_CPP_BRIDGE_SOCKET", socket);
    let ended = feed(command.args(["-e", "-c", &example.script]), "");
    assert_eq!(ended.code, Some(0), "{}: {ended:?}", example.title);
    ended
}

/// The lines of a file that an example wrote.
fn lines(home: &Directory, name: &str) -> Vec<String> {
    let text =
        fs::read_to_string(home.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    text.lines().map(String::from).collect()
}

/// Examples that a tiny model shows: what the prompt ends with tells the answer.
const WITH_A_TINY_MODEL: &[&str] = &[
    "Load a model and ask it",
    "Embeddings of many lines to a file",
    "Going on where map stopped",
    "Count the tokens of a file",
    "Prompts of several lines",
    "The completion of bash",
    "The same request with nc",
    "The same request with socat",
    "The same request with Python",
    "The same request with Perl",
    "The same request with Node",
];

/// Examples that need a model with a chat template and some sense.
const WITH_A_REAL_MODEL: &[&str] = &[
    "Summarise a file",
    "Classify the lines of a log into JSON",
    "One field of a structured answer",
    "Commit message from a diff",
    "A conversation in a script",
    "Nightly batch over three bridges",
    "Several questions at once over three bridges",
];

/// The socket of the examples that are to work without `LLAMA_CPP_BRIDGE_SOCKET`.
const DEFAULT_SOCKET: &str = "/tmp/llama-cpp-bridge.sock";

#[test]
fn every_example_of_the_page_is_run_by_a_test() {
    let Some(page) = rendered() else {
        return;
    };
    let wide = page.lines().find(|line| line.chars().count() > 80);
    assert_eq!(wide, None, "a line does not fit a terminal");
    let titles: BTreeSet<String> = examples()
        .into_iter()
        .map(|example| example.title)
        .collect();
    let run = WITH_A_TINY_MODEL.iter().chain(WITH_A_REAL_MODEL);
    assert_eq!(titles, run.map(|title| title.to_string()).collect());
}

#[test]
fn the_examples_that_a_tiny_model_shows_do_what_they_say() {
    let home = Directory::new();
    let model = Tiny::alphabet()
        .chain("\nx")
        .chain(".z")
        .write(home.join("model.gguf"));
    let _bridge = Bridge::with_model(&home, &model, &[]);
    fs::write(home.join("lines.txt"), "one\ntwo\nthree\n").expect("a file can be written");
    fs::write(home.join("report.txt"), "A report.\n").expect("a file can be written");
    fs::write(home.join("prompts.txt"), "a\nb\nc\nw\n").expect("a file can be written");
    fs::write(home.join("answers.txt"), "one\ntwo\n").expect("a file can be written");
    let reply = "{\"status\":\"ok\",\"message\":\"Inference completed\",\"data\":\"tuvwxyz\"}\n";
    for example in examples()
        .iter()
        .filter(|e| WITH_A_TINY_MODEL.contains(&e.title.as_str()))
    {
        let output = play(example, &home).output;
        match example.title.as_str() {
            "Load a model and ask it" => {
                assert_eq!(output, "Model loaded successfully\ntuvwxyz\n");
            }
            "Embeddings of many lines to a file" => {
                let lines = lines(&home, "vectors.txt");
                assert_eq!(lines.len(), 3);
                let width = |line: &String| {
                    line.split(' ')
                        .filter_map(|n| n.parse::<f64>().ok())
                        .count()
                };
                assert!(lines.iter().all(|line| width(line) == 288), "{lines:?}");
            }
            "Going on where map stopped" => {
                let answers = ["one", "two", "defghijklmnopqrstuvwxyz", "xyz"];
                assert_eq!(lines(&home, "answers.txt"), answers);
            }
            "Count the tokens of a file" => {
                let tokens = feed(&mut llambo(&home, &["tokenize"]), "A report.\n").output;
                let count = tokens.split_whitespace().count();
                assert!(count >= "A report.\n".len(), "{tokens}");
                assert_eq!(output.trim(), count.to_string());
            }
            "Prompts of several lines" => assert_eq!(output, "xyz\nz\n"),
            "The completion of bash" => {
                let installed = home.join(".local/share/bash-completion/completions/llambo");
                let script = fs::read_to_string(installed).expect("it was installed");
                assert_eq!(script, ask(&home, &["--completions", "bash"]).output);
            }
            "The same request with nc" | "The same request with socat" => assert_eq!(output, reply),
            "The same request with Python"
            | "The same request with Perl"
            | "The same request with Node" => assert_eq!(output, "tuvwxyz\n"),
            other => panic!("nothing is expected of '{other}'"),
        }
    }
}

#[test]
fn the_command_that_lends_a_bridge_a_port_does_so() {
    let Some(page) = rendered() else {
        return;
    };
    let home = Directory::new();
    let _bridge = Bridge::start(&home, &[]);
    let (_, rest) = page
        .split_once("socat TCP-LISTEN:7070")
        .expect("it is there");
    let (command, _) = rest.split_once("\n\n").expect("a block ends");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("the port is known").port();
    drop(listener);
    let socket = home.socket().display().to_string();
    let script = format!("exec socat TCP-LISTEN:{port}{command}").replace(DEFAULT_SOCKET, &socket);
    let mut socat = Running::start(Command::new("bash").args(["-c", &script]));
    let address = format!("tcp:127.0.0.1:{port}");
    wait_until("socat forwards", || {
        let ended = ask(&home, &["-s", &address, "ping"]);
        let runs = socat.child.try_wait().is_ok_and(|end| end.is_none());
        assert!(runs, "socat has ended: {ended:?}");
        ended.output == "pong\n"
    });
}

/// Starts a bridge on a socket of this name.
fn bridge_named(home: &Directory, model: &Path, name: &str) -> Bridge {
    let socket = home.join(name);
    let mut command = Command::new(program());
    command.args([
        "--temp",
        "0",
        "--threads",
        "1",
        "--threads-batch",
        "1",
        "--model",
    ]);
    command.arg(model).arg("--socket").arg(&socket);
    Bridge::start_command(&mut command, socket)
}

#[test]
fn the_examples_that_need_a_real_model_do_what_they_say() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridges: Vec<Bridge> = ["socket", "one.sock", "two.sock", "three.sock"]
        .iter()
        .map(|name| bridge_named(&home, &model, name))
        .collect();
    let log = "kernel: out of memory\nsshd: session opened\ndisk: 91 % full\n";
    let questions = "What is 2+2?\nWhat is the capital of France?\nName a colour.\nName a bird.\n";
    let files = [
        (
            "report.txt",
            "Sales rose in spring. They fell in autumn, since the harvest was poor.\n",
        ),
        ("service.log", log),
        ("questions.txt", questions),
        ("greeting.txt", "Hello\n"),
    ];
    for (name, text) in files {
        fs::write(home.join(name), text).expect("a file can be written");
    }
    let mut git = Command::new("sh");
    git.args(["-e", "-c", "git init -q . && git add greeting.txt"])
        .current_dir(home.path());
    assert_eq!(feed(&mut git, "").code, Some(0));
    for example in examples()
        .iter()
        .filter(|e| WITH_A_REAL_MODEL.contains(&e.title.as_str()))
    {
        let output = play(example, &home).output;
        match example.title.as_str() {
            "Summarise a file" => assert!(output.trim().len() > 10, "{output}"),
            "Commit message from a diff" => {
                assert_eq!(output.lines().count(), 1, "{output}");
                assert!(output.trim().len() > 3, "{output}");
            }
            "Classify the lines of a log into JSON" => {
                let levels = lines(&home, "levels.jsonl");
                assert_eq!(levels.len(), log.lines().count(), "{levels:?}");
                for level in levels {
                    let bare: String = level.chars().filter(|c| !c.is_whitespace()).collect();
                    let word = bare
                        .strip_prefix("{\"level\":\"")
                        .and_then(|r| r.strip_suffix("\"}"));
                    assert!(
                        matches!(word, Some("error" | "warning" | "info")),
                        "{level}"
                    );
                }
            }
            "One field of a structured answer" => {
                let colour = fs::read_to_string(home.join("colour.txt")).expect("it was replaced");
                assert!(!colour.trim().is_empty(), "{colour}");
            }
            "A conversation in a script" => {
                assert!(output.lines().count() >= 2, "{output}");
            }
            "Several questions at once over three bridges" => {
                let answers = lines(&home, "answers.jsonl");
                assert_eq!(answers.len(), 4, "{answers:?}");
                let good = |line: &String| line.starts_with("{\"status\":\"ok\"");
                assert!(answers.iter().all(good), "{answers:?}");
            }
            "Nightly batch over three bridges" => {
                let answers = lines(&home, "answers.jsonl");
                assert_eq!(answers.len(), 4);
                let good = |line: &String| line.starts_with("{\"status\":\"ok\"");
                assert!(answers.iter().all(good), "{answers:?}");
                assert!(answers[0].contains('4'), "{answers:?}");
            }
            other => panic!("nothing is expected of '{other}'"),
        }
    }
    drop(bridges);
}
