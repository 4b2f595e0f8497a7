//! Models in several files, as `NAME-00001-of-0000N.gguf` and so on.

use std::fs;
use std::process::Command;

use crate::harness::{Bridge, Directory, Tiny, completed, ok, process, wait_until};

#[test]
fn a_split_model_is_loaded_by_its_first_part() {
    let home = Directory::new();
    let [first, _] = Tiny::alphabet().write_split(&home.join("tiny"));
    let bridge = Bridge::with_model(&home, &first, &[]);
    let mut client = bridge.connect();
    client.exchange("STATUS", &ok(&format!("Model loaded: {}", first.display())));
    client.exchange("INFER w", &completed("xyz"));
    let child = bridge.model_process();
    client.load(&first);
    assert_eq!(bridge.model_process(), child, "it was loaded again");
}

#[test]
fn a_split_model_whose_second_part_has_changed_is_loaded_again() {
    let home = Directory::new();
    let [first, second] = Tiny::alphabet().write_split(&home.join("tiny"));
    let bridge = Bridge::with_model(&home, &first, &[]);
    let mut client = bridge.connect();
    let child = bridge.model_process();
    let [_, other] = Tiny::mute().chain("w!?").write_split(&home.join("other"));
    fs::rename(other, second).expect("a rename");
    client.exchange("INFER w", &completed("xyz"));
    client.load(&first);
    client.exchange("INFER w", &completed("!?"));
    wait_until("the old process ends", || !process::runs(child));
}

#[test]
fn a_part_that_is_missing_is_named() {
    let home = Directory::new();
    let [first, second] = Tiny::alphabet().write_split(&home.join("tiny"));
    fs::remove_file(&second).expect("it can go");
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.ask(&format!("LOAD {}", first.display()));
    let message = client.expect_error("load_failed");
    let second = second.to_str().expect("test paths are UTF-8");
    assert!(message.contains(second), "{message}");
    assert!(message.contains("No such file"), "{message}");
}

#[test]
fn a_part_that_is_no_regular_file_is_named_and_not_opened() {
    let home = Directory::new();
    let [first, second] = Tiny::alphabet().write_split(&home.join("tiny"));
    fs::remove_file(&second).expect("it can go");
    let made = Command::new("mkfifo").arg(&second).status();
    assert!(made.expect("mkfifo runs").success());
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.ask(&format!("LOAD {}", first.display()));
    let message = client.expect_error("load_failed");
    let end = format!(": {} is a FIFO, not a GGUF file", second.display());
    assert!(message.ends_with(&end), "{message}");
}

#[test]
fn a_whole_model_may_have_the_name_of_a_first_part() {
    let home = Directory::new();
    for name in [
        "tiny-00001-of-00003.gguf",
        "tiny-00001-of-00001.gguf",
        "tiny-00001-of-00000.gguf",
        "-00001-of-00002.gguf",
        "tiny-00001-of-99999.gguf",
        "tiny-00001-of-2.gguf",
    ] {
        let model = Tiny::alphabet().write(home.join(name));
        let bridge = Bridge::with_model(&home, &model, &[]);
        bridge.connect().exchange("INFER w", &completed("xyz"));
    }
}
