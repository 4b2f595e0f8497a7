//! A bridge that has little of something: it says at the start what is missing, or serves, and answers each
//! request.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::text;
use crate::harness::{
    Bridge, Client, Directory, Tiny, command, completed, loaded, ok, process, program, skip,
    wait_until,
};

/// Sends a request, and says whether the reply is the one that is wanted; else it is an error.
fn ask(client: &mut Client, request: &str, wanted: &str) -> bool {
    client.ask(request);
    let reply = client.receive();
    if reply.starts_with(wanted.trim_end_matches('}')) {
        return true;
    }
    let start = r#"{"status":"error","message":""#;
    if !(reply.starts_with(start) && reply.contains(r#"","code":""#)) {
        client.fail("expected an answer or an error");
    }
    false
}

/// Whether the bridge serves; else it has said why not, and left nothing.
fn serves(bridge: &mut Bridge, what: &str) -> bool {
    if bridge.output_line().is_some() {
        return true;
    }
    let status = bridge.wait();
    assert_eq!(status.code(), Some(1), "{what}: {}", bridge.errors());
    wait_until("it says why", || {
        bridge.errors().starts_with("llama-cpp-bridge: ")
    });
    false
}

/// Has all kinds of requests answered, and says whether each was carried out.
fn use_all(bridge: &mut Bridge, model: &Path) -> bool {
    let mut client = bridge.connect();
    client.exchange("PING", &ok("pong"));
    let load = format!("LOAD {}", model.display());
    let mut all = true;
    for _ in 0..2 {
        all &= ask(&mut client, &load, loaded());
        all &= ask(&mut client, "INFER w", &completed("xyz"));
        all &= ask(&mut client, "SAVE a", &ok("State saved"));
        all &= ask(&mut client, "RESTORE a", &ok("State restored"));
        all &= ask(&mut client, "EMBED a", &ok("Embedding completed"));
        // The second time without a word of the model that was there.
        client.exchange("FREE", &ok("Resources freed"));
    }
    all &= ask(&mut client, &load, loaded());
    let child = process::children(bridge.pid());
    client.exchange("QUIT", &ok("Goodbye"));
    bridge.expect_stop(&child);
    all
}

#[test]
fn with_five_to_twenty_one_descriptors_each_request_is_answered() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let states = home.join("states");
    fs::create_dir(&states).expect("a directory can be made");
    let mut first_that_serves = None;
    for count in 5..=21 {
        let mut start = Command::new("sh");
        let options = command(&home, &["--temp", "0", "--idle-unload", "3600"]);
        start
            .args(["-c", &format!("ulimit -n {count}; exec \"$@\""), "sh"])
            .arg(program())
            .args(options.get_args())
            .arg("--state-dir")
            .arg(&states)
            .arg("--metrics-file")
            .arg(home.join("metrics.prom"));
        let mut bridge = Bridge::spawn(&mut start, home.socket());
        let what = format!("{count} descriptors");
        let served = serves(&mut bridge, &what);
        let all = served && use_all(&mut bridge, &model);
        println!(
            "{what}: serves {served}, carries out all {all}: {}",
            bridge.errors()
        );
        assert!(served || first_that_serves.is_none(), "{what} are too few");
        first_that_serves = first_that_serves.or(served.then_some(count));
        assert!(all || count < 21, "{what} are too few: {}", bridge.errors());
    }
}

/// A command that starts a bridge with a file system of its own in `home/small`, where its socket, its
/// states and its metrics are, of so many bytes and files; `None`, said aloud, where that cannot be had.
fn on_small_disk(home: &Directory, limits: &str) -> Option<Command> {
    let small = home.join("small");
    let _ = fs::create_dir(&small);
    let script = format!("mount -t tmpfs -o {limits} none small && exec \"$@\"");
    let mut start = Command::new("unshare");
    start
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .args([&script, "sh"])
        .current_dir(home.path());
    let mut test = Command::new("unshare");
    test.args(start.get_args())
        .arg("true")
        .current_dir(home.path());
    if !test.output().is_ok_and(|done| done.status.success()) {
        skip("there may be no mount namespace with a small disk");
        return None;
    }
    start
        .arg(program())
        .args(["--threads", "1", "--temp", "0", "--max-tokens", "400"])
        .args(["--socket", "small/socket"]);
    Some(start)
}

/// The small disk of a running bridge, as others see it.
fn seen(bridge: &Bridge, home: &Directory) -> PathBuf {
    let small = home.join("small");
    let inside = small.strip_prefix("/").expect("it is absolute");
    Path::new(&format!("/proc/{}/root", bridge.pid())).join(inside)
}

/// Writes as much as the disk takes.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file can be made");
    for size in [4096, 1] {
        while file.write_all(&vec![b'x'; size]).is_ok() {}
    }
}

#[test]
fn on_a_full_disk_each_request_is_answered_and_what_was_kept_stays() {
    let home = Directory::new();
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    let Some(mut start) = on_small_disk(&home, "size=256k") else {
        return;
    };
    start.args([
        "--state-dir",
        "small",
        "--metrics-file",
        "small/metrics.prom",
    ]);
    let mut bridge = Bridge::start_command_as(&mut start, home.socket(), "small/socket");
    let disk = seen(&bridge, &home);
    let mut client = Client::connect(&disk.join("socket"));
    client.load(&model);
    client.exchange("INFER abc", &completed(&text(b'c', 400)));
    assert!(ask(&mut client, "SAVE kept", &ok("State saved")));
    fill(&disk.join("filler"));
    client.exchange("INFER abd", &completed(&text(b'd', 400)));
    for name in ["kept", "new"] {
        client.ask(&format!("SAVE {name}"));
        client.expect_error("internal");
        client.exchange("INFER abe", &completed(&text(b'e', 400)));
    }
    wait_until("the bridge says that it cannot write its metrics", || {
        client.exchange("PING", &ok("pong"));
        bridge.errors().contains("metrics.prom: ")
    });
    let kept = r#"{"status":"ok","message":"State restored","state_tokens":403,"#;
    assert!(ask(&mut client, "RESTORE kept", kept));
    // Another model, which has no directory for its states yet.
    let other = Tiny::alphabet().write(home.join("other.gguf"));
    let _ = ask(&mut client, &format!("LOAD {}", other.display()), loaded());
    client.load(&model);
    fs::remove_file(disk.join("filler")).expect("it can be removed");
    client.exchange("INFER abe", &completed(&text(b'e', 400)));
    assert!(ask(&mut client, "SAVE new", &ok("State saved")));
    assert!(ask(&mut client, "RESTORE kept", &ok("State restored")));
    let child = bridge.model_process();
    client.exchange("QUIT", &ok("Goodbye"));
    bridge.expect_stop(&[child]);
}

#[test]
fn on_a_disk_with_room_for_few_files_a_bridge_serves_or_says_what_it_lacks() {
    let home = Directory::new();
    let mut served = false;
    // The directory is one of them; the last disk takes many, and no bytes.
    let limits = (1..=6).map(|count| format!("nr_inodes={count}"));
    for limits in limits.chain(["size=4k".to_string()]) {
        let Some(mut start) = on_small_disk(&home, &limits) else {
            return;
        };
        start.args(["--metrics-file", "small/metrics.prom"]);
        let mut bridge = Bridge::spawn(&mut start, home.socket());
        if !serves(&mut bridge, &limits) {
            assert!(!served || limits == "size=4k", "{limits} is not enough");
            continue;
        }
        served = true;
        let mut client = Client::connect(&seen(&bridge, &home).join("socket"));
        client.exchange("PING", &ok("pong"));
        client.exchange("QUIT", &ok("Goodbye"));
        bridge.expect_stop(&[]);
    }
    assert!(served);
}
