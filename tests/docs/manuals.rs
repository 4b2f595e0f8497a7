//! The manual pages: that they say what the code does, and that their examples are true.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Bridge, Directory, Tiny, run, skip, verbs};
use llama_cpp_bridge::shared::ranges::{self, Limit};

/// The path of a model in the examples.
const MODEL: &str = "/models/tiny.gguf";

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn program_manual() -> String {
    read("man/llama-cpp-bridge.1")
}

fn protocol_manual() -> String {
    read("man/llama-cpp-bridge.7")
}

/// Every manual page in `man/`.
pub(crate) fn pages() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let entries = fs::read_dir(directory).expect("the manuals can be listed");
    let paths = entries.map(|entry| entry.expect("it can be listed").path());
    let pages: Vec<PathBuf> = paths.filter(|path| path.is_file()).collect();
    assert!(pages.len() >= 7, "{pages:?}");
    pages
}

/// The name of a file.
pub(crate) fn name(path: &Path) -> &str {
    let name = path.file_name().and_then(|name| name.to_str());
    name.expect("its name is UTF-8")
}

/// What stands between `before` and `after`, everywhere in `text`.
fn between<'a>(text: &'a str, before: &str, after: &str) -> BTreeSet<&'a str> {
    let parts = text.split(before).skip(1);
    parts
        .filter_map(|part| part.split_once(after))
        .map(|(found, _)| found)
        .collect()
}

/// The part of a page under a heading.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let start = format!("\n.Sh {heading}\n");
    let (_, rest) = page
        .split_once(&start)
        .unwrap_or_else(|| panic!("no section {heading}"));
    rest.split("\n.Sh ").next().unwrap_or(rest)
}

/// The first words behind a macro at the start of a line.
fn items<'a>(page: &'a str, start: &str) -> BTreeSet<&'a str> {
    let rests = page.lines().filter_map(|line| line.strip_prefix(start));
    rests
        .filter_map(|rest| rest.split_whitespace().next())
        .collect()
}

/// The options that a page's tagged items begin with, as they are typed.
fn documented_options(page: &str) -> BTreeSet<String> {
    let mut options = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with(".It Fl ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let flags = words
            .windows(2)
            .filter(|pair| pair[0] == "Fl")
            .map(|pair| pair[1]);
        options.extend(flags.map(|flag| format!("-{flag}")));
    }
    options
}

/// Options that are ignored with a warning, for one more release.
const DEPRECATED: [&str; 1] = ["--preload"];

/// The options that the code takes, as they are typed.
fn accepted_options() -> BTreeSet<String> {
    let code = read("src/cli/options.rs");
    let long = between(&code, "Long(\"", "\")")
        .into_iter()
        .map(|name| format!("--{name}"));
    let short = between(&code, "Short('", "')")
        .into_iter()
        .map(|name| format!("-{name}"));
    let sampling = ranges::ALL
        .iter()
        .map(|limit| format!("--{}", limit.option));
    let all = long.chain(short).chain(sampling);
    all.filter(|name| !DEPRECATED.contains(&name.as_str()))
        .collect()
}

#[test]
fn every_option_stands_in_the_manual_and_the_reverse() {
    let accepted = accepted_options();
    assert!(
        accepted.len() > 30,
        "the options were not found: {accepted:?}"
    );
    assert_eq!(
        documented_options(section(&program_manual(), "OPTIONS")),
        accepted
    );
}

/// The options that the help shows, as they are typed.
fn options_of_help(help: &str) -> BTreeSet<String> {
    let mut shown = BTreeSet::new();
    for line in help
        .lines()
        .filter(|line| line.trim_start().starts_with('-'))
    {
        let names = line
            .split([' ', ','])
            .take_while(|word| word.is_empty() || word.starts_with('-'));
        shown.extend(names.filter(|word| !word.is_empty()).map(String::from));
    }
    shown
}

#[test]
fn every_option_stands_in_the_help_and_the_reverse() {
    let help = run(Command::new(crate::harness::program()).arg("--help")).output;
    let shown = options_of_help(&help);
    assert_eq!(shown, accepted_options());
}

/// The long options that a line of `.Fl` or of `.It Fl` names, as they are typed.
fn long_options(line: &str) -> impl Iterator<Item = String> {
    let words = line.split([' ', ',']);
    words
        .filter(|word| word.len() > 1 && word.starts_with('-'))
        .map(|word| format!("-{word}"))
}

/// The options of each subject in the index at the beginning of OPTIONS.
fn indexed_options(options: &str) -> BTreeMap<String, Vec<String>> {
    let (_, index) = options.split_once("\n.Bl ").expect("there is an index");
    let (index, _) = index.split_once("\n.El\n").expect("it ends");
    let groups = index.split("\n.It Sx ").skip(1).map(|group| {
        let mut lines = group.lines();
        let subject = lines.next().unwrap_or_default().to_string();
        (subject, lines.flat_map(long_options).collect())
    });
    groups.collect()
}

/// The options that each section of OPTIONS describes.
fn described_options(options: &str) -> BTreeMap<String, Vec<String>> {
    let sections = options.split("\n.Ss ").skip(1).map(|section| {
        let mut lines = section.lines();
        let subject = lines.next().unwrap_or_default().to_string();
        let items = lines.filter(|line| line.starts_with(".It Fl "));
        (subject, items.flat_map(long_options).collect())
    });
    sections.collect()
}

#[test]
fn every_option_of_the_help_is_in_the_index_and_in_the_section_that_it_names() {
    let page = program_manual();
    let options = section(&page, "OPTIONS");
    let indexed = indexed_options(options);
    assert_eq!(indexed, described_options(options));
    let indexed: Vec<&String> = indexed.values().flatten().collect();
    let help = run(Command::new(crate::harness::program()).arg("--help")).output;
    let shown = options_of_help(&help);
    let long: BTreeSet<&String> = shown.iter().filter(|name| name.starts_with("--")).collect();
    assert_eq!(indexed.iter().copied().collect::<BTreeSet<_>>(), long);
    assert_eq!(indexed.len(), long.len(), "an option is in two sections");
}

#[test]
fn a_manual_names_no_option_that_does_not_exist() {
    let accepted = accepted_options();
    // llambo's page names options of both programs; a test of its own looks at its own.
    for path in pages().iter().filter(|path| name(path) != "llambo.1") {
        let page = fs::read_to_string(path).expect("the page can be read");
        for name in between(&page, "Fl -", "\n") {
            let name = name.split_whitespace().next().unwrap_or_default();
            let name = format!("--{name}");
            assert!(
                accepted.contains(&name) || DEPRECATED.contains(&name.as_str()),
                "{path:?}: {name}"
            );
        }
    }
}

#[test]
fn every_verb_stands_in_the_manual_and_the_reverse() {
    let manual = protocol_manual();
    let described = items(section(&manual, "VERBS"), ".Ss ").into_iter();
    assert_eq!(
        described.map(String::from).collect::<BTreeSet<_>>(),
        verbs()
    );
}

#[test]
fn every_error_code_stands_in_the_manual_and_the_reverse() {
    let code = read("src/shared/failure.rs");
    let (_, rest) = code
        .split_once("enum Code {")
        .expect("the codes are an enum");
    let (variants, _) = rest.split_once("\n}").expect("the enum ends");
    let codes = between(variants, "rename = \"", "\"");
    assert!(codes.len() >= 11, "the codes were not found: {codes:?}");
    assert_eq!(
        items(section(&protocol_manual(), "ERROR CODES"), ".It Cm "),
        codes
    );
}

#[test]
fn every_environment_variable_stands_in_the_manual_and_the_reverse() {
    let mut used = BTreeSet::new();
    for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let code = fs::read_to_string(file).expect("a source can be read");
        for prefix in [
            "LLAMA_CPP_BRIDGE_",
            "GLIBC_",
            "GOMP_",
            "OMP_",
            "JOURNAL_",
            "LISTEN_",
            "NOTIFY_",
            "WATCHDOG_",
        ] {
            let names = between(&code, &format!("\"{prefix}"), "\"");
            // The names of a library's functions begin alike, and have small letters.
            let names = names
                .into_iter()
                .filter(|name| !name.contains(char::is_lowercase));
            used.extend(names.map(|name| format!("{prefix}{name}")));
        }
    }
    let page = program_manual();
    let documented = items(section(&page, "ENVIRONMENT"), ".It Ev ");
    let documented: BTreeSet<String> = documented.into_iter().map(String::from).collect();
    assert!(!used.is_empty(), "the variables were not found");
    assert_eq!(documented, used);
}

/// The bridge's own sources; those of the client program have a page of their own.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory)
        .expect("the sources can be listed")
        .flatten();
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.path()) {
        match path.is_dir() {
            true if path.ends_with("bin") => {}
            true => files.extend(sources(&path)),
            false => files.push(path),
        }
    }
    files
}

/// The item of a page that has these words at its beginning, up to the next item.
fn item<'a>(page: &'a str, start: &str) -> &'a str {
    let named = |item: &&str| {
        let line = item.lines().next().unwrap_or_default();
        format!(", {line} ").contains(&format!(", {start} "))
    };
    let found = page.split("\n.It ").skip(1).find(named);
    found.unwrap_or_else(|| panic!("no item {start}"))
}

/// What the page says of GENERATE.
fn generate(page: &str) -> &str {
    let (_, rest) = page.split_once("\n.Ss GENERATE\n").expect("it is there");
    rest.split("\n.Ss ").next().unwrap_or(rest)
}

/// The range of a limit as the pages write it.
fn range(limit: &Limit) -> String {
    format!("{} to {}", limit.low, limit.high).replace('-', "\\-")
}

#[test]
fn the_ranges_of_the_options_of_sampling_stand_in_the_manual() {
    let page = program_manual();
    for limit in ranges::ALL {
        let item = item(&page, &format!("Fl -{} Ar", limit.option));
        assert!(item.contains(&format!("\n{}, ", range(limit))), "{item}");
    }
}

#[test]
fn the_ranges_of_the_fields_of_generate_stand_in_the_manual() {
    let page = protocol_manual();
    let page = generate(&page);
    for limit in ranges::ALL {
        let limit = match limit.field {
            "seed" => &ranges::SEED_FIELD,
            _ => limit,
        };
        let item = item(page, &format!("Cm {}", limit.field));
        let kind = if limit.whole {
            "whole number"
        } else {
            "number"
        };
        let takes = format!("\nA {kind} from {}", range(limit));
        let rest = item.split_once(&takes).map(|(_, rest)| rest);
        assert!(
            rest.is_some_and(|rest| rest.starts_with([';', ','])),
            "{item}"
        );
    }
}

#[test]
fn the_fields_of_generate_stand_in_the_manual_and_the_reverse() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.ask(r#"GENERATE {"":1}"#);
    let message = client.expect_error("bad_request");
    let (_, known) = message
        .split_once("the fields are ")
        .expect("they are told");
    let page = protocol_manual();
    let documented: Vec<&str> = generate(&page)
        .lines()
        .filter_map(|line| line.strip_prefix(".It Cm "))
        .collect();
    assert_eq!(documented.join(", "), known);
}

#[test]
fn every_exit_status_stands_in_the_manual() {
    let page = program_manual();
    let statuses = items(section(&page, "EXIT STATUS"), ".It ");
    assert_eq!(statuses, BTreeSet::from(["0", "1", "2"]));
}

/// The texts of the sources, their lines joined and their placeholders as `{}`.
fn texts() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let model_program = root.join("bin/llama-cpp-bridge-model");
    let files = [sources(&root), sources(&model_program)].concat();
    let code = files
        .iter()
        .map(|file| fs::read_to_string(file).expect("a source can be read"));
    let code: String = code.collect();
    let mut lines = code.split("\\\n");
    let mut joined = lines.next().unwrap_or_default().to_string();
    joined.extend(lines.map(str::trim_start));
    let mut parts = joined.split('{');
    let mut text = parts.next().unwrap_or_default().to_string();
    let named =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_:?.".contains(&byte);
    for part in parts {
        let placeholder = part
            .split_once('}')
            .filter(|(name, _)| name.bytes().all(named));
        text.push_str("{}");
        text.push_str(placeholder.map_or(part, |(_, rest)| rest));
    }
    text
}

/// What a message of DIAGNOSTICS says, up to and between its words in capitals, where that is at
/// least three words: fewer may be put together by the code.
fn literal_parts(message: &str) -> Vec<String> {
    let variable = |word: &str| {
        let word = word.trim_matches(|c: char| !c.is_ascii_alphabetic());
        let word = word.strip_suffix(".lock").unwrap_or(word);
        !["", "AUTH", "SIGKILL"].contains(&word)
            && word.bytes().all(|byte| byte.is_ascii_uppercase())
    };
    let words: Vec<&str> = message.split(' ').collect();
    let option = |word: &str| word.starts_with("--") && word.ends_with(':');
    let parts =
        words.split(|word| variable(word) || option(word) || word.contains('=') || *word == "...");
    let parts = parts.filter(|part| part.len() >= 3);
    parts
        .map(|part| part.join(" ").trim_end_matches(',').to_string())
        .collect()
}

#[test]
fn every_message_under_diagnostics_is_in_the_sources() {
    let page = program_manual();
    let texts = texts();
    let mut checked = 0;
    for line in section(&page, "DIAGNOSTICS").lines() {
        let Some(message) = line.strip_prefix(".It ") else {
            continue;
        };
        for part in literal_parts(message) {
            assert!(texts.contains(&part), "no source says '{part}': {message}");
            checked += 1;
        }
    }
    assert!(checked >= 10, "only {checked} messages were looked for");
}

#[test]
fn the_defaults_in_the_help_stand_in_the_manual() {
    let help = run(Command::new(crate::harness::program()).arg("--help")).output;
    let page = program_manual();
    let options = section(&page, "OPTIONS");
    for item in options.split("\n.It Fl ").skip(1) {
        let Some(name) = between(item.lines().next().unwrap_or(""), "Fl -", " ").pop_first() else {
            continue;
        };
        let shown = help
            .split("--")
            .find(|part| part.starts_with(&format!("{name} ")));
        let value = shown.and_then(|part| between(part, "(", ")").pop_last());
        let Some(value) = value.filter(|value| {
            value
                .bytes()
                .all(|b| b.is_ascii_digit() || b == b'.' || b == b'-')
        }) else {
            continue;
        };
        assert!(
            item.contains(value),
            "--{name}: {value} is not in the manual:\n{item}"
        );
    }
}

#[test]
fn the_manuals_are_clean() {
    if Command::new("mandoc")
        .arg("-T")
        .arg("lint")
        .arg("/dev/null")
        .output()
        .is_err()
    {
        return skip("there is no mandoc to check the manuals with");
    }
    for page in pages() {
        let mut lint = Command::new("mandoc");
        let ended = run(lint.args(["-T", "lint", "-W", "warning"]).arg(&page));
        assert_eq!(
            ended.code,
            Some(0),
            "{}: {}{}",
            page.display(),
            ended.output,
            ended.errors
        );
    }
}

#[test]
fn every_manual_is_named_by_another_one_and_names_only_what_exists() {
    let all: BTreeSet<String> = pages()
        .iter()
        .map(|path| name(path).replace('.', " "))
        .collect();
    let mut named = BTreeSet::new();
    for path in pages() {
        let page = fs::read_to_string(&path).expect("the page can be read");
        for heading in ["NAME", "DESCRIPTION", "SEE ALSO"] {
            section(&page, heading);
        }
        let own = name(&path).replace('.', " ");
        let references = |text: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(".Xr "));
            let names = lines.map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "));
            names.collect::<BTreeSet<String>>()
        };
        let ours =
            |name: &String| name.starts_with("llama-cpp-bridge") || name.starts_with("llambo ");
        for reference in references(&page).iter().filter(|name| ours(name)) {
            assert!(all.contains(reference), "{own} names {reference}");
        }
        named.extend(
            references(section(&page, "SEE ALSO"))
                .into_iter()
                .filter(|name| *name != own),
        );
    }
    let unnamed: Vec<&String> = all.difference(&named).collect();
    assert!(unnamed.is_empty(), "no SEE ALSO names {unnamed:?}");
}

/// The literal blocks of a page.
fn blocks(page: &str) -> impl Iterator<Item = &str> {
    let blocks = page.split("\n.Bd -literal -offset indent\n").skip(1);
    blocks
        .filter_map(|block| block.split_once("\n.Ed"))
        .map(|(block, _)| block)
}

/// The dialogues of a page: its literal blocks in which a client and the server speak.
fn dialogues(page: &str) -> Vec<Vec<String>> {
    blocks(page)
        .map(spoken)
        .filter(|dialogue| !dialogue.is_empty())
        .collect()
}

/// What is said in a block; an indented line goes on with the one before.
fn spoken(block: &str) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    for line in block.lines().map(plain) {
        match (line.strip_prefix("   "), said.last_mut()) {
            (Some(rest), Some(last)) => last.push_str(rest),
            _ if line.starts_with("C: ") || line.starts_with("S: ") => said.push(line),
            _ => {}
        }
    }
    said
}

/// Whether this is the reply that a page shows, in which `...` stands for one or more numbers, or
/// `(more)` for any text.
fn shows(shown: &str, reply: &str) -> bool {
    if let Some((start, end)) = shown.split_once("(more)") {
        let rest = reply.strip_prefix(start);
        return rest.is_some_and(|rest| rest.len() > end.len() && rest.ends_with(end));
    }
    let number = |byte: u8| byte.is_ascii_digit() || b".,-e".contains(&byte);
    let mut parts = shown.split("...");
    let mut rest = parts.next().and_then(|part| reply.strip_prefix(part));
    for part in parts {
        rest = rest
            .and_then(|rest| rest.split_once(part))
            .filter(|(numbers, _)| !numbers.is_empty() && numbers.bytes().all(number))
            .map(|(_, rest)| rest);
    }
    shown == reply || rest == Some("")
}

#[test]
fn a_shown_reply_is_compared_but_for_its_numbers() {
    let shown = r#"{"ms":...,"list":[...],"seed":4}"#;
    assert!(shows(shown, r#"{"ms":0.25,"list":[-1.0,2e-7],"seed":4}"#));
    assert!(shows(r#"{"data":"ab..."}"#, r#"{"data":"ab..."}"#));
    for wrong in [
        r#"{"ms":...}"#,
        r#"{"ms":2,"seed":...}"#,
        r#"{"ms":x...,"seed":4}"#,
        r#"{"ms":...,"seed":5}"#,
    ] {
        assert!(!shows(wrong, r#"{"ms":1,"seed":4}"#), "{wrong}");
    }
    assert!(!shows(r#"{"ms":...}"#, r#"{"ms":}"#));
    assert!(shows(r#"{"data":"a(more)z"}"#, r#"{"data":"abcz"}"#));
    assert!(!shows(r#"{"data":"a(more)z"}"#, r#"{"data":"az"}"#));
    assert!(!shows(r#"{"data":"a(more)z"}"#, r#"{"data":"bcz"}"#));
    assert!(!shows(r#"{"ms":...}"#, r#"{"ms":null}"#));
}

/// A line of a page without mdoc's escapes.
fn plain(line: &str) -> String {
    line.replace("\\&", "")
        .replace("\\(dq", "\"")
        .replace("\\-", "-")
        .replace("\\e", "\\")
}

#[test]
fn the_dialogues_of_the_manual_are_true() {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let here = |line: &str| line.replace("/models/", &format!("{}/", home.path().display()));
    assert!(model.ends_with(Path::new(MODEL).file_name().expect("it has one")));
    let page = protocol_manual();
    let template = blocks(&page).find(|block| block.starts_with("{{"));
    let template_file = home.join("template");
    fs::write(&template_file, template.expect("the page has one")).expect("it can be written");
    let template_file = template_file.to_str().expect("test paths are UTF-8");
    let options = ["--temp", "0", "--max-tokens", "8", "--seed", "42"];
    let options = [&options[..], &["--chat-template-file", template_file]].concat();
    let states = home.path().to_str().expect("test paths are UTF-8");
    let options = [&options[..], &["--state-dir", states]].concat();
    let all = dialogues(&page);
    assert!(all.len() >= 6, "only {} dialogues", all.len());
    for dialogue in all {
        // Each begins with a bridge of its own and no model loaded.
        let bridge = Bridge::start(&home, &options);
        let mut client = bridge.connect();
        for line in dialogue {
            match line.split_at(3) {
                ("C: ", request) => client.ask(&here(request)),
                (_, reply) => {
                    let shown = here(reply);
                    let received = client.receive();
                    if !shows(&shown, &received) {
                        client.fail(&format!(
                            "expected\n   {shown}\nbut received\n   {received}"
                        ));
                    }
                }
            }
        }
    }
}

#[test]
fn every_verb_has_a_dialogue() {
    let page = protocol_manual();
    for verb in section(&page, "VERBS").split("\n.Ss ").skip(1) {
        let name = verb.split_whitespace().next().unwrap_or_default();
        let said = verb
            .lines()
            .any(|line| line == format!("C: {name}") || line.starts_with(&format!("C: {name} ")));
        assert!(said, "{name} has no dialogue");
    }
}
