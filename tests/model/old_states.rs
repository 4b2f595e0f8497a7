//! States that lie where version 0.1 kept them, and those of several models under one directory.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Bridge, Client, Directory, Tiny, failure, ok, run, skip};
use crate::model::saved_state::{ask, keeper, marked, model_states, restore, save};

/// The file of a state in the place of version 0.1.
fn old_file(home: &Directory, name: &str) -> PathBuf {
    home.join("states").join(format!("{name}.state"))
}

/// Saves a state of this model, and puts it where 0.1 kept it; returns where it is kept now.
fn save_as_of_old(home: &Directory, model: &Path, name: &str) -> PathBuf {
    let bridge = keeper(home, model, &[]);
    let mut client = bridge.connect();
    ask(&mut client, "some X before", 4);
    save(&mut client, name);
    let new = model_states(home).join(format!("{name}.state"));
    fs::rename(&new, old_file(home, name)).expect("it can be renamed");
    new
}

fn expect_of_another_model(client: &mut Client, name: &str) {
    let message =
        format!("The saved state '{name}' is of another model than the one that is loaded");
    client.exchange(
        &format!("RESTORE {name}"),
        &failure("unsupported", &message),
    );
}

#[test]
fn a_state_of_0_1_is_moved_to_its_model_when_it_is_restored() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    let new = save_as_of_old(&home, &model, "a");
    let bridge = keeper(&home, &model, &[]);
    let mut client = bridge.connect();
    let restored = restore(&mut client, "a");
    assert!(new.is_file() && !old_file(&home, "a").exists());
    assert_eq!(restore(&mut client, "a"), restored);
    let answer = ask(&mut client, "some X beforeZZZZ and", 2);
    assert_eq!(answer.cached_tokens, restored.0);
}

#[test]
fn a_state_of_0_1_that_belongs_to_another_user_is_not_used() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    save_as_of_old(&home, &model, "a");
    let old = old_file(&home, "a");
    if chown(&old, Some(65534), None).is_err() {
        return skip("a file can be given to another user by root only");
    }
    let bridge = keeper(&home, &model, &[]);
    let message = "The saved state 'a' cannot be used: it belongs to another user";
    let mut client = bridge.connect();
    client.exchange("RESTORE a", &failure("bad_request", message));
    assert!(old.is_file());
}

#[test]
fn a_state_of_0_1_goes_when_a_new_one_replaces_it() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    save_as_of_old(&home, &model, "a");
    let other = Tiny::carousel().write(home.join("other.gguf"));
    // A state of another model's is another state, whatever its name.
    for (model, stays) in [(&other, true), (&model, false)] {
        let bridge = keeper(&home, model, &[]);
        let mut client = bridge.connect();
        ask(&mut client, "abc", 1);
        save(&mut client, "a");
        assert_eq!(old_file(&home, "a").exists(), stays);
    }
}

#[test]
fn the_label_of_a_state_is_what_0_1_wrote() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    save_as_of_old(&home, &model, "a");
    let state = fs::read(old_file(&home, "a")).expect("it is there");
    let length = state.len() - 16;
    let label = u32::from_le_bytes(state[length..length + 4].try_into().expect("four bytes"));
    let label = &state[length - label as usize..length];
    let label = std::str::from_utf8(label).expect("it is text");
    let number = |name: &str| {
        let (_, rest) = label
            .split_once(&format!("\"{name}\":"))
            .expect("it is there");
        rest.split([',', '}']).next().expect("it has an end")
    };
    let bytes = fs::metadata(&model).expect("it is there").len();
    let written = length - label.len();
    let (hash, bytes) = (number("model_hash"), bytes.to_string());
    let expected = format!(
        r#"{{"version":1,"model_bytes":{bytes},"model_hash":{hash},"context_size":512,"cache_type_k":"F16","cache_type_v":"F16","flash_attn":"auto","tokens":17,"prompt":14,"bytes":{written}}}"#
    );
    assert_eq!(label, expected);
}

#[test]
fn a_state_of_0_1_of_another_model_stays_where_it_is() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    let other = Tiny::carousel().write(home.join("other.gguf"));
    save_as_of_old(&home, &model, "a");
    let bridge = keeper(&home, &other, &[]);
    let mut client = bridge.connect();
    expect_of_another_model(&mut client, "a");
    assert!(old_file(&home, "a").is_file());
    // Nor does what is no state at all go anywhere.
    for (bytes, reason) in [
        (
            &b"qsgg and then nothing of what has to follow"[..],
            "it is damaged: its end is missing",
        ),
        (b"notes", "it is not a saved state"),
        (b"....llcbrst1", "it is not a saved state"),
        (
            b"\xff\xff\xff\xff....llcbrst1",
            "it is damaged: the length of its label is wrong",
        ),
        (
            b"{}\x02\0\0\0....llcbrst1",
            "it was written by another version",
        ),
    ] {
        fs::write(old_file(&home, "b"), bytes).expect("it can be written");
        let message = format!("The saved state 'b' cannot be used: {reason}");
        client.exchange("RESTORE b", &failure("bad_request", &message));
        assert_eq!(fs::read(old_file(&home, "b")).expect("it is there"), bytes);
    }
}

#[test]
fn two_models_have_states_of_one_name() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    let other = Tiny::carousel().write(home.join("other.gguf"));
    let bridge = keeper(&home, &model, &[]);
    let mut client = bridge.connect();
    ask(&mut client, "some X before", 1);
    let first = save(&mut client, "a");
    save(&mut client, "only");
    client.load(&other);
    expect_of_another_model(&mut client, "a");
    ask(&mut client, "short", 1);
    let second = save(&mut client, "a");
    assert_ne!(first, second);
    assert_eq!(restore(&mut client, "a"), second);
    expect_of_another_model(&mut client, "only");
    client.load(&model);
    assert_eq!(restore(&mut client, "a"), first);
}

#[test]
fn the_oldest_states_of_all_models_make_room() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    let other = Tiny::carousel().write(home.join("other.gguf"));
    save_as_of_old(&home, &model, "old");
    let bytes = fs::metadata(old_file(&home, "old"))
        .expect("it is there")
        .len();
    let limit = (2 * bytes + bytes / 2).to_string();
    let bridge = keeper(&home, &model, &["--state-limit", &limit]);
    let mut client = bridge.connect();
    ask(&mut client, "some X before", 4);
    save(&mut client, "first");
    assert!(old_file(&home, "old").is_file());
    client.load(&other);
    ask(&mut client, "some X before", 4);
    save(&mut client, "second");
    assert!(!old_file(&home, "old").exists());
    save(&mut client, "third");
    // Its directory goes with the last of its states.
    let missing = "There is no saved state 'first'";
    client.exchange("RESTORE first", &failure("not_found", missing));
    let left = fs::read_dir(home.join("states")).expect("it is there");
    assert_eq!(left.count(), 1);
}

#[test]
fn a_model_without_states_leaves_nothing_behind() {
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    let bridge = keeper(&home, &model, &[]);
    let own = model_states(&home);
    let states = own.parent().and_then(Path::to_str).expect("a UTF-8 path");
    // Of a model process that was killed with its bridge.
    fs::write(own.join("saving/left-behind"), "half a state").expect("it can be written");
    let second = Directory::new();
    let sharing = Bridge::with_model(&second, &model, &["--state-dir", states]);
    let mut client = bridge.connect();
    client.exchange("FREE", &ok("Resources freed"));
    // The other bridge still uses it.
    let mut other = sharing.connect();
    ask(&mut other, "some X before", 1);
    save(&mut other, "a");
    assert!(own.join("saving/left-behind").is_file());
    fs::remove_file(own.join("a.state")).expect("it can be removed");
    other.exchange("FREE", &ok("Resources freed"));
    assert!(!own.exists());
}

/// The descriptor by which a process has this file open.
fn descriptor(pid: u32, path: &Path) -> Option<String> {
    let mut entries = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("it runs")
        .flatten();
    let found =
        entries.find(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == path));
    found.and_then(|entry| entry.file_name().into_string().ok())
}

/// The error of each of these calls when the process itself makes them, `None` for one that
/// succeeds. Nothing where the process cannot be looked into.
fn inside(pid: u32, calls: &[&str]) -> Option<Vec<Option<i32>>> {
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

#[test]
fn from_inside_finished_states_can_be_read_and_those_of_other_models_not_at_all() {
    if Command::new("gdb").arg("--version").output().is_err() {
        return skip("there is no gdb to look from inside with");
    }
    let home = Directory::new();
    let model = marked().write(home.join("tiny.gguf"));
    let other = Tiny::carousel().write(home.join("other.gguf"));
    save_as_of_old(&home, &other, "old");
    let bridge = keeper(&home, &other, &[]);
    let mut client = bridge.connect();
    ask(&mut client, "some X before", 1);
    save(&mut client, "a");
    let others = model_states(&home);
    let all_of_other = others.parent().map(|states| states.join("others"));
    drop(client);
    drop(bridge);
    // Out of the way of `model_states`.
    let all_of_other = all_of_other.expect("it has a parent");
    fs::rename(&others, &all_of_other).expect("it can be renamed");
    let bridge = keeper(&home, &model, &[]);
    let mut client = bridge.connect();
    ask(&mut client, "some X before", 1);
    let pid = bridge.model_process();
    let states = home.join("states");
    let entries = fs::read_dir(&states).expect("it is there").flatten();
    let mut paths = entries.map(|entry| entry.path());
    let own = paths.find(|path| path.is_dir() && *path != all_of_other);
    let own = own.expect("the model is loaded");
    save(&mut client, "a");
    let scratch = own.join("saving/scratch");
    fs::write(&scratch, "half a state").expect("it can be written");
    let open = |path: &Path, flags: i32| format!("open(\"{}\", {flags}, 384)", path.display());
    let (read, write, create, empty) = (
        libc::O_RDONLY,
        libc::O_RDWR,
        libc::O_RDWR | libc::O_CREAT,
        libc::O_WRONLY | libc::O_TRUNC,
    );
    let (denied, no_such_call) = (Some(libc::EACCES), Some(libc::EPERM));
    let rows = [
        (open(&own.join("a.state"), read), None),
        (open(&own.join("a.state"), write), denied),
        (open(&own.join("new"), create), denied),
        (open(&own.join("saving/new"), create), denied),
        (open(&own, read | libc::O_DIRECTORY), denied),
        (open(&all_of_other.join("a.state"), read), denied),
        (open(&old_file(&home, "old"), read), denied),
        (open(&scratch, empty), None),
        (open(&scratch, read), None),
        (format!("unlink(\"{}\")", scratch.display()), no_such_call),
        (
            format!(
                "rename(\"{}\", \"{}/b.state\")",
                scratch.display(),
                own.display()
            ),
            no_such_call,
        ),
    ];
    let calls: Vec<&str> = rows.iter().map(|(call, _)| call.as_str()).collect();
    let Some(errors) = inside(pid, &calls) else {
        return skip("gdb may not look into the model process here");
    };
    let expected: Vec<Option<i32>> = rows.iter().map(|(_, error)| *error).collect();
    assert_eq!(errors, expected);
    // Once the bridge has taken it away, it cannot be opened anew, by whatever is still open.
    let fd = descriptor(pid, &scratch).expect("it is open");
    let again = format!("open(\"/proc/self/fd/{fd}\", {write})");
    assert_eq!(inside(pid, &[&again]), Some(vec![None]));
    fs::rename(&scratch, own.join("b.state")).expect("it can be renamed");
    assert_eq!(inside(pid, &[&again]), Some(vec![denied]));
}
