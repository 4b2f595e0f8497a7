//! A directory that clients' models have to lie in.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::harness::{
    Bridge, Client, Directory, Tiny, command, completed, failure, loaded, ok, process, run,
    wait_until,
};

/// A directory `models` with a model in it, and another model beside it.
fn models(home: &Directory) -> PathBuf {
    let models = home.join("models");
    fs::create_dir_all(models.join("sub")).expect("a directory can be made");
    Tiny::alphabet().write(models.join("in.gguf"));
    Tiny::mute().chain("w!?").write(home.join("out.gguf"));
    models
}

/// A bridge whose clients can load only what is in `directory`.
fn confined(home: &Directory, directory: &Path, options: &[&str]) -> Bridge {
    let directory = directory.to_str().expect("test paths are UTF-8");
    let greedy = ["--temp", "0", "--model-dir", directory];
    Bridge::start(home, &[&greedy[..], options].concat())
}

/// What is said of a model that lies elsewhere.
fn outside(path: &str, directory: &Path) -> String {
    let shown = directory.display();
    failure(
        "denied",
        &format!("Failed to load model: {path}: only models in {shown} can be loaded here"),
    )
}

fn load(client: &mut Client, path: &str, reply: &str) {
    client.exchange(&format!("LOAD {path}"), reply);
}

#[test]
fn models_in_the_directory_are_loaded_by_any_path_that_leads_there() {
    let home = Directory::new();
    let models = models(&home);
    symlink("../in.gguf", models.join("sub/link.gguf")).expect("a link can be made");
    symlink(models.join("in.gguf"), home.join("way-in.gguf")).expect("a link can be made");
    let absolute = models.join("in.gguf").display().to_string();
    let way_in = home.join("way-in.gguf").display().to_string();
    let bridge = confined(&home, &models, &[]);
    let mut client = bridge.connect();
    for path in [
        absolute.as_str(),
        "in.gguf",
        "sub/link.gguf",
        "sub/../in.gguf",
        &way_in,
    ] {
        load(&mut client, path, loaded());
        client.exchange("STATUS", &ok(&format!("Model loaded: {path}")));
        client.exchange("INFER w", &completed("xyz"));
        let child = bridge.model_process();
        load(&mut client, path, loaded());
        assert_eq!(bridge.model_process(), child, "it was loaded again");
    }
}

#[test]
fn models_elsewhere_are_denied_and_nobody_learns_whether_they_are_there() {
    let home = Directory::new();
    let models = models(&home);
    symlink("../out.gguf", models.join("way-out.gguf")).expect("a link can be made");
    symlink("..", models.join("up")).expect("a link can be made");
    let bridge = confined(&home, &models, &[]);
    let mut client = bridge.connect();
    load(&mut client, "in.gguf", loaded());
    let there = home.join("out.gguf").display().to_string();
    let missing = home.join("missing.gguf").display().to_string();
    for path in [
        there.as_str(),
        &missing,
        "../out.gguf",
        "../missing.gguf",
        "way-out.gguf",
        "up/out.gguf",
        "up/missing.gguf",
        "up/missing/missing.gguf",
        "/etc/passwd",
        "/dev/null",
        "..",
    ] {
        load(&mut client, path, &outside(path, &models));
    }
    // The model that was there still is.
    client.exchange("INFER w", &completed("xyz"));
}

#[test]
fn what_is_wrong_with_a_file_in_the_directory_is_told() {
    let home = Directory::new();
    let models = models(&home);
    fs::write(models.join("text.gguf"), "text").expect("a file can be written");
    fs::write(models.join("bad.gguf"), "GGUF\x03\0\0\0").expect("a file can be written");
    let bridge = confined(&home, &models, &[]);
    let mut client = bridge.connect();
    let climbs = home.join("models/../models");
    let second = Directory::new();
    let other = confined(&second, &climbs, &[]);
    let message = "Failed to load model: missing.gguf: no such file";
    load(
        &mut other.connect(),
        "missing.gguf",
        &failure("load_failed", message),
    );
    for (path, reason) in [
        ("missing.gguf", "no such file"),
        ("sub", "is a directory, not a GGUF file"),
        (
            "text.gguf",
            "not a GGUF file: it does not start with the letters GGUF",
        ),
    ] {
        let message = format!("Failed to load model: {path}: {reason}");
        load(&mut client, path, &failure("load_failed", &message));
    }
    // What llama.cpp says names the file as the client did.
    client.ask("LOAD bad.gguf");
    let message = client.expect_error("load_failed");
    assert!(!message.contains("/fd/"), "{message}");
}

#[test]
fn the_model_process_gets_the_opened_file_and_the_bridge_keeps_none() {
    let home = Directory::new();
    let models = models(&home);
    let bridge = confined(&home, &models, &[]);
    let mut client = bridge.connect();
    let opened = |pid: u32| {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).expect("Linux tells");
        let targets = links
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.filter(|path| path.ends_with("in.gguf")).count()
    };
    load(&mut client, "in.gguf", loaded());
    assert_eq!(opened(bridge.pid()), 0);
    assert_eq!(opened(bridge.model_process()), 1);
    client.exchange("FREE", &ok("Resources freed"));
    Tiny::alphabet().write(models.join("in2.gguf"));
    load(&mut client, "in2.gguf", loaded());
    assert_eq!(opened(bridge.model_process()), 0, "a descriptor was left");
}

#[test]
fn a_split_model_in_the_directory_is_loaded_whole() {
    let home = Directory::new();
    let models = models(&home);
    let temporary = home.join("tmp");
    fs::create_dir(&temporary).expect("a directory can be made");
    Tiny::alphabet().write_split(&models.join("sub/parts"));
    let mut start = command(&home, &["--temp", "0", "--model-dir"]);
    start.arg(&models).env("TMPDIR", &temporary);
    let bridge = Bridge::start_command(&mut start, home.socket());
    let mut client = bridge.connect();
    load(&mut client, "sub/parts-00001-of-00002.gguf", loaded());
    client.exchange("INFER w", &completed("xyz"));
    // One part is a way out.
    let part = models.join("sub/parts-00002-of-00002.gguf");
    fs::rename(&part, home.join("part.gguf")).expect("a rename");
    symlink("../../part.gguf", &part).expect("a link can be made");
    let first = "sub/parts-00001-of-00002.gguf";
    load(&mut client, first, &outside(first, &models));
    fs::remove_file(&part).expect("it can go");
    client.ask("LOAD sub/parts-00001-of-00002.gguf");
    let message = client.expect_error("load_failed");
    assert!(
        message.contains("'sub/parts-00002-of-00002.gguf'"),
        "{message}"
    );
    // Nothing is left of the names that llama.cpp was shown.
    let left = fs::read_dir(&temporary).expect("it is there").count();
    assert_eq!(left, 0);
    client.exchange("INFER w", &completed("xyz"));
}

#[test]
fn the_model_of_the_command_line_may_lie_elsewhere_and_comes_back() {
    let home = Directory::new();
    let models = models(&home);
    let out = home.join("out.gguf").display().to_string();
    let bridge = confined(&home, &models, &["--model", &out]);
    let mut client = bridge.connect();
    client.exchange("INFER w", &completed("!?"));
    process::signal(bridge.model_process(), "KILL");
    wait_until("the dead process is reaped", || {
        process::children(bridge.pid()).is_empty() && process::zombies(bridge.pid()).is_empty()
    });
    // A client can neither load it, nor take it away by trying.
    load(&mut client, &out, &outside(&out, &models));
    client.exchange("INFER w", &completed("!?"));
}

#[test]
fn a_directory_that_is_none_is_an_error() {
    let home = Directory::new();
    models(&home);
    for (name, reason) in [("missing", "No such file"), ("out.gguf", "not a directory")] {
        let path = home.join(name);
        let shown = path.to_str().expect("test paths are UTF-8");
        let ended = run(&mut command(&home, &["--model-dir", shown]));
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let start = format!("llama-cpp-bridge: --model-dir: {shown}: {reason}");
        assert!(ended.errors.starts_with(&start), "{ended:?}");
    }
}
