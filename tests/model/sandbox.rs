//! The sandbox of the model process, looked at from inside and from outside.

#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::fs;
use std::path::Path;
use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::harness::{Bridge, Directory, Tiny, completed, process};
use crate::model::saved_state::{ask, keeper, marked, model_states, restore, save};

/// What the model process says of itself, thread by thread, after a text and an embedding.
fn status(options: &[&str], name: &str) -> Vec<String> {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let several = ["--threads", "2", "--threads-batch", "2"];
    let bridge = Bridge::with_model(&home, &model, &[&several[..], options].concat());
    let mut client = bridge.connect();
    assert_eq!(ask(&mut client, "abc", 3).text, "def");
    client.ask("EMBED abc");
    assert!(client.receive().contains("Embedding completed"));
    let told = process::status_of_threads(bridge.model_process(), name);
    drop(client);
    assert_eq!(bridge.all_errors(), "");
    told
}

#[test]
fn every_thread_of_the_model_process_has_given_up_calls_and_new_privileges() {
    for (name, value) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        let told = status(&[], name);
        assert!(told.len() >= 2, "there is one thread alone: {told:?}");
        assert!(told.iter().all(|told| told == value), "{name}: {told:?}");
    }
}

#[test]
fn no_sandbox_leaves_the_model_process_as_it_is() {
    for (name, value) in [("NoNewPrivs", "0"), ("Seccomp", "0")] {
        let told = status(&["--no-sandbox"], name);
        assert!(told.iter().all(|told| told == value), "{name}: {told:?}");
    }
}

#[test]
fn the_model_process_opens_no_file_but_its_own() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    for (options, opened) in [(&[][..], false), (&["--no-sandbox"], true)] {
        let bridge = keeper(&home, &model, options);
        let mut client = bridge.connect();
        ask(&mut client, "some text", 1);
        save(&mut client, "a");
        restore(&mut client, "a");
        // The same path, and the same file there, but not the directory that it may open.
        let (states, own) = (home.join("states"), model_states(&home));
        fs::rename(&states, home.join("away")).expect("it can be renamed");
        fs::create_dir_all(&own).expect("it can be made");
        let away = home
            .join("away")
            .join(own.strip_prefix(&states).expect("it is within"));
        fs::copy(away.join("a.state"), own.join("a.state")).expect("it can be copied");
        if opened {
            restore(&mut client, "a");
        } else {
            client.ask("RESTORE a");
            let message = client.expect_error("internal");
            let denied = "Cannot read the state 'a': Permission denied (os error 13)";
            assert_eq!(message, denied);
        }
        fs::remove_dir_all(&states).expect("it can be removed");
        fs::rename(home.join("away"), &states).expect("it can be renamed back");
    }
}

/// Has all that this thread starts find a kernel without these calls.
fn without(calls: &[libc::c_long]) {
    let rules: BTreeMap<i64, Vec<_>> = calls.iter().map(|call| (*call, Vec::new())).collect();
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    let arch = ARCH
        .try_into()
        .expect("the tests run where the sandbox does");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, missing, arch);
    let program: BpfProgram = filter.and_then(TryInto::try_into).expect("it is a filter");
    seccompiler::apply_filter(&program).expect("the kernel takes it");
}

/// What a bridge says that starts and answers on a kernel without these calls, through two loads; and
/// its reply to INFO.
fn said_without(calls: &'static [libc::c_long]) -> (String, String) {
    let bridge = thread::spawn(move || {
        without(calls);
        let home = Directory::new();
        let model = Tiny::carousel().write(home.join("tiny.gguf"));
        let bridge = Bridge::with_model(&home, &model, &["-n", "3"]);
        let mut client = bridge.connect();
        client.exchange("INFER abc", &completed("def"));
        client.exchange("FREE", r#"{"status":"ok","message":"Resources freed"}"#);
        client.load(&model);
        client.exchange("INFER abc", &completed("def"));
        client.ask("INFO");
        let info = client.receive();
        drop(client);
        (bridge.all_errors(), info)
    });
    bridge.join().expect("the bridge serves")
}

const INCOMPLETE: &str = "llama-cpp-bridge: the sandbox of the model process is incomplete: ";

#[test]
fn what_the_kernel_lacks_is_one_line_at_the_start_and_in_info() {
    let landlock = "Landlock (Linux 5.13)";
    let seccomp = "seccomp filters";
    for (calls, line, lacks) in [
        (
            &[libc::SYS_landlock_create_ruleset][..],
            format!("no {landlock}"),
            format!(r#"["{landlock}"]"#),
        ),
        (
            &[libc::SYS_landlock_create_ruleset, libc::SYS_seccomp],
            format!("no {landlock}, {seccomp}"),
            format!(r#"["{landlock}","{seccomp}"]"#),
        ),
    ] {
        let (said, info) = said_without(calls);
        assert_eq!(said, format!("{INCOMPLETE}{line}\n"));
        let end = format!(r#","sandbox":"partial","sandbox_lacks":{lacks}}}"#);
        assert!(info.ends_with(&end), "{info}");
    }
}

/// The bridge asks the kernel what it has; that a step of the entry fails is found out by entering.
#[test]
fn what_fails_on_entering_is_said_at_each_load() {
    let (said, _) = said_without(&[libc::SYS_landlock_restrict_self]);
    let lines: Vec<&str> = said.lines().collect();
    let start = format!("{INCOMPLETE}Landlock: ");
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines.iter().all(|line| line.starts_with(&start)), "{said}");
}

/// A split model, one that is read into memory, and one out of a directory for models.
#[test]
fn every_way_to_load_a_model_works_inside() {
    let home = Directory::new();
    let models = home.join("models");
    fs::create_dir(&models).expect("it can be made");
    let parts = Tiny::carousel().write_split(&models.join("split"));
    let one = Tiny::carousel().write(models.join("tiny.gguf"));
    let directory = models.to_str().expect("test paths are UTF-8");
    for options in [
        &["--no-mmap"][..],
        &["--mlock"],
        &["--model-dir", directory],
    ] {
        for model in [&parts[0], &one] {
            let bridge = Bridge::with_model(&home, model, &[&["-n", "3"], options].concat());
            loads(&bridge, model);
        }
    }
}

fn loads(bridge: &Bridge, model: &Path) {
    let mut client = bridge.connect();
    client.exchange("INFER abc", &completed("def"));
    client.exchange("FREE", r#"{"status":"ok","message":"Resources freed"}"#);
    client.load(model);
    client.exchange("INFER abc", &completed("def"));
    assert_eq!(
        process::status_of_threads(bridge.model_process(), "Seccomp")[0],
        "2"
    );
}
