//! The cookbook of llambo(1): every example is run, and does what the page says.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use crate::harness::{Bridge, Directory, Ended, Tiny, program, skip, smollm2_or_skip, wait_until};
use crate::llambo::commands::{Running, ask, feed, llambo};

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
