//! The sandbox of the model process, looked at from inside and from outside.

#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::harness::{Bridge, Directory, Tiny, completed, process, run, skip};
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

#[test]
fn from_inside_neither_a_file_nor_a_socket_nor_a_program_is_to_be_had() {
    if Command::new("gdb").arg("--version").output().is_err() {
        return skip("there is no gdb to look from inside with");
    }
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    for (options, expected) in [
        (
            &[][..],
            [Some(13), Some(13), Some(1), Some(1), Some(1), Some(1)],
        ),
        // There is no such program.
        (&["--no-sandbox"], [None, None, None, None, None, Some(2)]),
    ] {
        let bridge = Bridge::with_model(&home, &model, &[&["-n", "3"], options].concat());
        let parent = bridge.pid();
        let Some(errors) = inside(
            bridge.model_process(),
            &[
                "open(\"/etc/passwd\", 0)",
                "open(\"/tmp/llama-cpp-bridge-test\", 66, 384)",
                "socket(1, 1, 0)",
                "socket(2, 2, 0)",
                &format!("kill({parent}, 0)"),
                "execve(\"/no/such/program\", 0, 0)",
            ],
        ) else {
            return skip("gdb may not look into the model process here");
        };
        assert_eq!(errors, expected, "{options:?}");
        let _ = fs::remove_file("/tmp/llama-cpp-bridge-test");
        // It works on as if nothing had happened.
        let mut client = bridge.connect();
        client.exchange("INFER abc", &completed("def"));
    }
}

/// The error of each of these calls when the process itself makes them, `None` for one that
/// succeeds. Nothing where the process cannot be looked into.
pub(crate) fn inside(pid: u32, calls: &[&str]) -> Option<Vec<Option<i32>>> {
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "--batch", "-p", &pid.to_string()]);
    for call in calls {
        gdb.args(["-ex", &format!("print (int){call}")]);
        gdb.args(["-ex", "print *((int*(*)(void))__errno_location)()"]);
    }
    let ended = run(&mut gdb);
    let values: Vec<i32> = ended
        .output
        .lines()
        .filter_map(|line| line.strip_prefix('$')?.split_once(" = ")?.1.parse().ok())
        .collect();
    if ended.errors.contains("ptrace: ") {
        return None;
    }
    assert_eq!(values.len(), 2 * calls.len(), "{ended:?}");
    let pairs = values.chunks(2);
    Some(pairs.map(|pair| (pair[0] < 0).then_some(pair[1])).collect())
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

/// What a bridge says that starts and answers on a kernel without these calls.
fn said_without(calls: &'static [libc::c_long]) -> String {
    let bridge = thread::spawn(move || {
        without(calls);
        let home = Directory::new();
        let model = Tiny::carousel().write(home.join("tiny.gguf"));
        let bridge = Bridge::with_model(&home, &model, &["-n", "3"]);
        let mut client = bridge.connect();
        client.exchange("INFER abc", &completed("def"));
        drop(client);
        bridge.all_errors()
    });
    bridge.join().expect("the bridge serves")
}

#[test]
fn a_kernel_without_it_gives_one_line_and_serves() {
    let start = "llama-cpp-bridge: the sandbox of the model process is incomplete: ";
    let said = said_without(&[libc::SYS_landlock_create_ruleset]);
    assert_eq!(said, format!("{start}this kernel has no Landlock\n"));
    let said = said_without(&[libc::SYS_landlock_create_ruleset, libc::SYS_seccomp]);
    let both =
        format!("{start}this kernel has no Landlock; this kernel rejects the seccomp filter: ");
    assert!(
        said.starts_with(&both) && said.lines().count() == 1,
        "{said}"
    );
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
