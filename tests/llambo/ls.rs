//! `llambo ls`: the bridges of a machine.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::harness::{Bridge, Directory, Ended, LIMIT, Tiny, command, process, skip};
use crate::llambo::commands::{expect_failure, expect_text, feed, llambo};

/// llambo that looks in these directories.
fn ls(home: &Directory, directories: &str, arguments: &[&str]) -> Ended {
    let mut command: Command = llambo(home, &[&["ls"], arguments].concat());
    command
        .env_remove("LLAMA_CPP_BRIDGE_SOCKET")
        .env("LLAMBO_LS_PATH", directories);
    feed(&mut command, "")
}

/// A bridge with a socket of this name.
fn bridge(home: &Directory, name: &str, options: &[&str]) -> (Bridge, PathBuf) {
    let socket = home.join(name);
    let mut start = command(home, options);
    // The last one counts.
    start.arg("--socket").arg(&socket);
    (Bridge::start_command(&mut start, socket.clone()), socket)
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

#[test]
fn every_bridge_is_listed_with_its_model_and_state() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let tokens = home.join("tokens");
    fs::write(&tokens, "secret\n").expect("a file can be written");
    fs::set_permissions(&tokens, Permissions::from_mode(0o600)).expect("and made private");
    let (_a, a) = bridge(
        &home,
        "llama-cpp-bridge-a.sock",
        &["--model", shown(&model)],
    );
    let (_b, b) = bridge(&home, "llama-cpp-bridge-b.sock", &[]);
    let (c_bridge, c) = bridge(&home, "llama-cpp-bridge-c.sock", &[]);
    let (_d, d) = bridge(
        &home,
        "llama-cpp-bridge-d.sock",
        &["--auth-file", shown(&tokens)],
    );
    let (_e, e) = bridge(&home, "llama-cpp-bridge-e.sock", &["--allow-uid", "54321"]);
    let (f_bridge, f) = bridge(&home, "llama-cpp-bridge-f.sock", &[]);
    // Not a bridge's name, nobody listens there any more, and not a socket at all.
    let (_other, _) = bridge(&home, "other.sock", &[]);
    drop(UnixListener::bind(home.join("llama-cpp-bridge-x.sock")).expect("a socket"));
    fs::write(home.join("llama-cpp-bridge-y.sock"), "").expect("a file can be written");
    // One that serves somebody else, and one that is stopped.
    let mut client = c_bridge.connect();
    client.exchange("PING", r#"{"status":"ok","message":"pong"}"#);
    process::signal(f_bridge.pid(), "STOP");
    let rows = [
        (&a, "ready", shown(&model)),
        (&b, "empty", "-"),
        (&c, "busy", "-"),
        (&d, "needs a token", "-"),
        (&e, "denied", "-"),
        (&f, "busy", "-"),
    ];
    let width = shown(&a).len();
    let mut table = format!("{:width$}  {:13}  MODEL\n", "SOCKET", "STATE");
    for (socket, state, model) in rows {
        table += &format!("{}  {state:13}  {model}\n", shown(socket));
    }
    let start = Instant::now();
    expect_text(&ls(&home, shown(home.path()), &[]), &table);
    assert!(start.elapsed() < LIMIT / 4, "{:?}", start.elapsed());
    let objects: String = rows
        .iter()
        .map(|(socket, state, model)| {
            let model = Some(model).filter(|model| **model != "-");
            let model = model.map(|model| format!(r#","model":"{model}""#));
            let model = model.unwrap_or_default();
            format!(
                "{{\"socket\":\"{}\",\"state\":\"{state}\"{model}}}\n",
                shown(socket)
            )
        })
        .collect();
    let json = ls(&home, shown(home.path()), &["--json", "--timeout", "0.5"]);
    expect_text(&json, &objects);
    process::signal(f_bridge.pid(), "CONT");
}

#[test]
fn a_token_opens_what_needs_one() {
    let home = Directory::new();
    let tokens = home.join("tokens");
    fs::write(&tokens, "secret\n").expect("a file can be written");
    fs::set_permissions(&tokens, Permissions::from_mode(0o600)).expect("and made private");
    let tokens = shown(&tokens);
    let (_bridge, socket) = bridge(&home, "llama-cpp-bridge.sock", &["--auth-file", tokens]);
    let ended = ls(
        &home,
        shown(home.path()),
        &["--json", "--auth-file", tokens],
    );
    let row = format!(
        "{{\"socket\":\"{}\",\"state\":\"empty\"}}\n",
        shown(&socket)
    );
    expect_text(&ended, &row);
}

#[test]
fn several_directories_and_named_sockets_are_looked_at() {
    let (home, other) = (Directory::new(), Directory::new());
    let (_a, a) = bridge(&home, "llama-cpp-bridge.sock", &[]);
    let (_b, b) = bridge(&other, "llama-cpp-bridge-2.sock", &[]);
    let (_c, c) = bridge(&other, "elsewhere", &[]);
    let both = format!(
        "{}:/nonexistent:{}",
        home.path().display(),
        other.path().display()
    );
    let ended = ls(&home, &both, &["-s", shown(&c), "--json"]);
    let mut sockets = [shown(&a), shown(&b), shown(&c)];
    sockets.sort_unstable();
    let row = |socket: &str| format!("{{\"socket\":\"{socket}\",\"state\":\"empty\"}}\n");
    expect_text(&ended, &sockets.map(row).concat());
}

#[test]
fn the_socket_of_a_stranger_is_listed_and_nothing_is_sent_to_it() {
    let home = Directory::new();
    let socket = home.join("llama-cpp-bridge.sock");
    let listener = UnixListener::bind(&socket).expect("a socket can be made");
    if chown(&socket, Some(54_321), None).is_err() {
        return skip("only root can give a socket to a stranger");
    }
    let ended = ls(&home, shown(home.path()), &["--json"]);
    let row = format!(
        "{{\"socket\":\"{}\",\"state\":\"not trusted\"}}\n",
        shown(&socket)
    );
    expect_text(&ended, &row);
    listener.set_nonblocking(true).expect("it can be asked");
    assert!(listener.accept().is_err(), "llambo connected");
}

#[test]
fn without_a_bridge_it_says_where_it_looked() {
    let home = Directory::new();
    let ended = ls(&home, shown(home.path()), &[]);
    let message = format!("llambo: no bridge found in {}", home.path().display());
    expect_failure(&ended, 3, &message);
}
