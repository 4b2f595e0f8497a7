//! The command line: what each option takes, and the exit statuses.

use std::process::Command;

use crate::harness::{Bridge, Directory, Tiny, command, completed, ok, program, run};

/// Options with the range that their error names, a value below it, one above, and its ends.
const NUMBERS: [(&str, &str, &str, &str, [&str; 2]); 19] = [
    (
        "--ctx-size",
        "0 to 1048576",
        "-1",
        "1048577",
        ["0", "1048576"],
    ),
    ("--threads", "1 to 512", "0", "513", ["1", "512"]),
    ("--threads-batch", "1 to 512", "0", "513", ["1", "512"]),
    (
        "--batch-size",
        "1 to 1048576",
        "0",
        "1048577",
        ["1", "1048576"],
    ),
    (
        "--ubatch-size",
        "1 to 1048576",
        "0",
        "1048577",
        ["1", "1048576"],
    ),
    ("--spec-ngram", "0 to 64", "-1", "65", ["0", "64"]),
    ("--gpu-layers", "0 to 10000", "-1", "10001", ["0", "10000"]),
    (
        "--max-tokens",
        "-1 to 1048576",
        "-2",
        "1048577",
        ["-1", "1048576"],
    ),
    ("--temp", "0 to 1000", "-0.1", "1000.1", ["0", "1000"]),
    (
        "--top-k",
        "0 to 2147483647",
        "-1",
        "2147483648",
        ["0", "2147483647"],
    ),
    ("--top-p", "0 to 1", "-0.1", "1.01", ["0", "1"]),
    ("--min-p", "0 to 1", "-0.1", "1.01", ["0", "1"]),
    (
        "--repeat-penalty",
        "to 1000",
        "0",
        "1000.1",
        ["0.1", "1000"],
    ),
    (
        "--repeat-last-n",
        "-1 to 1048576",
        "-2",
        "1048577",
        ["-1", "1048576"],
    ),
    (
        "--seed",
        "-1 to 4294967295",
        "-2",
        "4294967296",
        ["-1", "4294967295"],
    ),
    ("--idle-timeout", "1 to 86400", "0", "86401", ["1", "86400"]),
    (
        "--max-request",
        "1024 to 1073741824",
        "1023",
        "1073741825",
        ["1024", "1073741824"],
    ),
    (
        "--socket-mode",
        "0000 to 0777",
        "-1",
        "1000",
        ["0000", "0777"],
    ),
    ("-c", "0 to 1048576", "-1", "1048577", ["0", "1048576"]),
];

/// Expects that these arguments are a usage error whose one line names `option` and has `part`.
fn expect_usage_error(arguments: &[&str], option: &str, part: &str) {
    let home = Directory::new();
    let ended = run(&mut command(&home, arguments));
    assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
    assert_eq!(ended.output, "", "{arguments:?}: {ended:?}");
    assert!(
        ended.errors.starts_with("llama-cpp-bridge: "),
        "{arguments:?}: {ended:?}"
    );
    assert!(ended.errors.contains(option), "{arguments:?}: {ended:?}");
    assert!(ended.errors.contains(part), "{arguments:?}: {ended:?}");
    assert_eq!(ended.errors.lines().count(), 1, "{arguments:?}: {ended:?}");
    assert!(!home.socket().exists(), "{arguments:?}: a socket was made");
}

#[test]
fn a_number_out_of_range_names_the_option_and_the_range() {
    for (option, range, below, above, _) in NUMBERS {
        for value in [below, above, "", "many", "1x", "99999999999999999999999"] {
            expect_usage_error(&[option, value], option, range);
        }
    }
    for option in ["--temp", "--top-p", "--min-p", "--repeat-penalty"] {
        for value in ["nan", "NaN", "inf", "-inf"] {
            expect_usage_error(&[option, value], option, "to 1");
        }
    }
}

#[test]
fn the_ends_of_every_range_are_accepted() {
    for end in 0..2 {
        let home = Directory::new();
        let options: Vec<&str> = NUMBERS
            .iter()
            .flat_map(|(option, _, _, _, ends)| [*option, ends[end]])
            .collect();
        let bridge = Bridge::start(&home, &options);
        if end == 1 {
            bridge.connect().exchange("PING", &ok("pong"));
        }
    }
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused_with_the_reason() {
    // The option, its value, and what is named besides the option.
    let values = [
        ("--flash-attn", &["", "maybe", "ON"][..], "on, off"),
        ("--cache-type-k", &["", "maybe", "ON"], "f16"),
        ("--cache-type-v", &["", "maybe", "ON"], "q8_0"),
        ("--socket", &[""], ""),
        ("-s", &[""], ""),
        ("--model", &[""], ""),
        ("-m", &[""], ""),
        ("--socket-group", &[""], ""),
    ];
    for (option, values, named) in values {
        for value in values {
            expect_usage_error(&[option, value], option, named);
        }
    }
    let without_value = NUMBERS.iter().map(|number| number.0);
    let others = ["--socket", "--model", "--flash-attn", "--socket-group"];
    // What is no option at all is named as well.
    let nonsense = ["--dance", "-x", "model.gguf", "--ctx", "---", "-"];
    for argument in without_value.chain(others).chain(nonsense) {
        expect_usage_error(&[argument], argument, argument);
    }
    for flag in ["--no-mmap", "--mlock", "--swa-full", "--verbose"] {
        expect_usage_error(&[&format!("{flag}=yes")], flag, "yes");
    }
}

#[test]
fn options_are_written_as_gnu_programs_take_them() {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let model = model.to_str().expect("UTF-8");
    let attached = format!("-m{model}");
    let equals = format!("--model={model}");
    let ways: [&[&str]; 4] = [
        &["-m", model, "-n", "3", "--temp", "0"],
        &[&attached, "-n3", "--temp=0"],
        &[&equals, "--max-tokens=3", "--temp=0"],
        &[
            "-n", "9", "-vn3", "--temp", "0.5", "--temp", "0", "--model", model,
        ],
    ];
    for options in ways {
        let bridge = Bridge::start(&home, options);
        bridge.connect().exchange("INFER a", &completed("bcd"));
    }
}

#[test]
fn help_is_printed_on_standard_output() {
    for option in ["-h", "--help"] {
        let ended = run(Command::new(program()).arg(option));
        assert_eq!(
            (ended.code, ended.errors.as_str()),
            (Some(0), ""),
            "{ended:?}"
        );
        assert!(
            ended.output.starts_with("Usage: llama-cpp-bridge"),
            "{ended:?}"
        );
        for (name, ..) in NUMBERS.iter().filter(|number| number.0.starts_with("--")) {
            assert!(
                ended.output.contains(name),
                "{name} is missing:\n{}",
                ended.output
            );
        }
        assert!(
            !ended.output.contains("--model-process"),
            "{}",
            ended.output
        );
        let widest = ended.output.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "a line of {widest:?} columns");
    }
}

#[test]
fn version_is_printed_on_standard_output() {
    for option in ["-V", "--version"] {
        let ended = run(Command::new(program()).arg(option));
        let expected = format!("llama-cpp-bridge {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(ended.output, expected);
        assert_eq!((ended.code, ended.errors.as_str()), (Some(0), ""));
    }
}

#[test]
fn help_into_a_closed_pipe_is_no_crash() {
    let script = format!("{} --help | true", program().display());
    let ended = run(Command::new("sh").args(["-c", &script]));
    assert!(!ended.errors.contains("panicked"), "{ended:?}");
}

#[test]
fn the_environment_names_the_socket_and_the_option_wins() {
    let home = Directory::new();
    let named = home.join("from-environment");
    let mut start = Command::new(program());
    start.env("LLAMA_CPP_BRIDGE_SOCKET", &named);
    let bridge = Bridge::start_command(&mut start, named.clone());
    bridge.connect().exchange("PING", &ok("pong"));
    drop(bridge);

    let option = home.join("from-option");
    let bridge = Bridge::start_command(start.arg("-s").arg(&option), option.clone());
    bridge.connect().exchange("PING", &ok("pong"));
}

#[test]
fn a_model_is_loaded_before_the_bridge_serves() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let told = ok(&format!("Model loaded: {}", model.display()));
    bridge.connect().exchange("STATUS", &told);
}

#[test]
fn a_model_that_cannot_be_loaded_keeps_the_bridge_from_serving() {
    let home = Directory::new();
    let text = home.join("text.gguf");
    std::fs::write(&text, "not a model").expect("a file can be written");
    for (path, reason) in [
        ("/nowhere/tiny.gguf", "no such file"),
        (text.to_str().expect("UTF-8"), "not a GGUF"),
    ] {
        let ended = run(&mut command(&home, &["--model", path]));
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert_eq!(ended.output, "", "{ended:?}");
        assert!(ended.errors.starts_with("llama-cpp-bridge: "), "{ended:?}");
        assert!(
            ended.errors.contains(path) && ended.errors.contains(reason),
            "{ended:?}"
        );
        assert!(!home.socket().exists() && !home.join("socket.lock").exists());
    }
}

#[test]
fn llama_cpps_own_log_comes_only_when_asked_for() {
    let home = Directory::new();
    let model = Tiny::alphabet().context(4096).write(home.join("tiny.gguf"));
    let quiet = Bridge::with_model(&home, &model, &[]);
    quiet.connect().exchange("INFER w", &completed("xyz"));
    assert_eq!(quiet.all_errors(), "");
    for option in ["-v", "--verbose"] {
        let loud = Bridge::with_model(&home, &model, &[option]);
        loud.connect().exchange("INFER w", &completed("xyz"));
        crate::harness::wait_until("the log of loading comes", || {
            loud.errors().contains("llama.block_count")
        });
    }
}

#[test]
fn a_context_that_the_model_cannot_have_is_said_on_standard_error() {
    let home = Directory::new();
    let model = Tiny::alphabet().context(512).write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["--ctx-size", "1000"]);
    bridge.connect().exchange("INFER w", &completed("xyz"));
    let said = bridge.all_errors();
    assert!(said.starts_with("llama-cpp-bridge: "), "{said}");
    assert!(said.contains("1000") && said.contains("512"), "{said}");
}

#[test]
fn preload_is_ignored_with_a_warning() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &["--preload", "/nowhere"]);
    bridge.connect().exchange("PING", &ok("pong"));
    assert_eq!(
        bridge.all_errors(),
        "llama-cpp-bridge: --preload is ignored since 0.2.0; read the file before the start, with \
         cat(1)\n"
    );
}
