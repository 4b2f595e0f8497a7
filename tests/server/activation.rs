//! A socket that is passed in, as systemd does it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{
    Bridge, Client, Directory, Tiny, completed, ok, process, program, run, skip, wait_until,
};

/// Makes a socket at the path `$path` that listens, as descriptor 3.
const LISTENING: &str = "socket(S, AF_UNIX, SOCK_STREAM, 0) && bind(S, pack_sockaddr_un($path)) \
     && listen(S, 8) or die";

/// A command that starts the bridge with what these lines of Perl make of the file handle `S` as
/// its descriptor 3, and these variables beside; `None`, said aloud, where there is no Perl.
fn with_passed(
    home: &Directory,
    lines: &str,
    variables: &str,
    options: &[&str],
) -> Option<Command> {
    if Command::new("perl").args(["-e", "1"]).output().is_err() {
        skip("there is no perl to pass sockets with");
        return None;
    }
    let script = format!(
        "$^F = 9; my $path = shift; {lines}; fileno(S) == 3 || POSIX::dup2(fileno(S), 3) or die; \
         %ENV = (%ENV, LISTEN_PID => $$, LISTEN_FDS => 1{variables}); exec @ARGV or die"
    );
    let mut perl = Command::new("perl");
    perl.args(["-MSocket", "-MPOSIX=dup2", "-e", &script])
        .arg(home.socket())
        .arg(program())
        .args(["--threads", "1", "--temp", "0"])
        .args(options)
        .env_remove("LLAMA_CPP_BRIDGE_SOCKET");
    Some(perl)
}

/// What is in the directory, but for models.
fn left_in(home: &Directory) -> BTreeSet<String> {
    let entries = fs::read_dir(home.path()).expect("it can be listed");
    let names = entries.flatten().map(|entry| entry.file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| !name.ends_with(".gguf"))
        .collect()
}

#[test]
fn a_socket_that_is_passed_in_is_served_and_stays() {
    let home = Directory::new();
    let Some(mut command) = with_passed(&home, LISTENING, "", &[]) else {
        return;
    };
    for end in ["QUIT", "SIGTERM"] {
        let mut bridge = Bridge::start_command(&mut command, home.socket());
        bridge.connect().exchange("PING", &ok("pong"));
        match end {
            "QUIT" => bridge.connect().exchange("QUIT", &ok("Goodbye")),
            _ => process::signal(bridge.pid(), "TERM"),
        }
        assert_eq!(bridge.wait().code(), Some(0), "{end}");
        // Nor was a lock of its own ever made beside it.
        assert_eq!(left_in(&home), BTreeSet::from(["socket".to_string()]));
        fs::remove_file(home.socket()).expect("it is there");
    }
}

#[test]
fn the_metrics_name_the_socket_that_is_passed_in() {
    for at in ["", "\\0"] {
        let home = Directory::new();
        let lines = LISTENING.replace("($path)", &format!("(\"{at}$path\")"));
        let file = home.join("a.prom");
        let option = ["--metrics-file", file.to_str().expect("paths are UTF-8")];
        let Some(mut command) = with_passed(&home, &lines, "", &option) else {
            return;
        };
        let mark = if at.is_empty() { "" } else { "@" };
        let named = format!("{mark}{}", home.socket().display());
        let _bridge = Bridge::start_command_as(&mut command, home.socket(), &named);
        let text = fs::read_to_string(file).expect("it is there");
        let label = format!("{{socket=\"{named}\"");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        for line in samples {
            assert!(line.contains(&label), "{line}");
        }
    }
}

#[test]
fn a_socket_with_an_abstract_name_is_served() {
    let home = Directory::new();
    let lines = LISTENING.replace("($path)", "(\"\\0$path\")");
    let Some(mut command) = with_passed(&home, &lines, "", &[]) else {
        return;
    };
    let named = format!("@{}", home.socket().display());
    let bridge = Bridge::start_command_as(&mut command, home.socket(), &named);
    assert_eq!(left_in(&home), BTreeSet::new());
    drop(bridge);
}

/// The sockets that a process has open, but for its standard ones.
fn sockets(pid: u32) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs");
    let further = entries.flatten().filter(|entry| {
        let number = entry.file_name().to_string_lossy().parse::<u32>();
        number.is_ok_and(|number| number > 2)
    });
    let named = further.filter_map(|entry| fs::read_link(entry.path()).ok());
    named
        .filter(|name| name.to_string_lossy().starts_with("socket:"))
        .collect()
}

#[test]
fn the_model_process_gets_neither_the_socket_nor_what_is_told_of_it() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let options = ["--model", model.to_str().expect("test paths are UTF-8")];
    let variables = ", LISTEN_FDNAMES => 'a.socket', STAYS => 1";
    let Some(mut command) = with_passed(&home, LISTENING, variables, &options) else {
        return;
    };
    let bridge = Bridge::start_command(&mut command, home.socket());
    let child = bridge.model_process();
    let environment = fs::read(format!("/proc/{child}/environ")).expect("the process runs");
    let environment = String::from_utf8_lossy(&environment).into_owned();
    assert!(environment.contains("STAYS=1"), "{environment}");
    assert!(!environment.contains("LISTEN_"), "{environment}");
    let passed = fs::read_link(format!("/proc/{}/fd/3", bridge.pid())).expect("it is open");
    assert!(sockets(bridge.pid()).contains(&passed), "{passed:?}");
    assert!(!sockets(child).contains(&passed), "{passed:?}");
    bridge.connect().exchange("INFER w", &completed("xyz"));
}

#[test]
fn what_cannot_be_served_is_refused_with_what_would_be_right() {
    for (lines, reason) in [
        (
            "socketpair(S, T, AF_UNIX, SOCK_STREAM, 0) or die",
            "it is a connection, not a listening socket; set Accept=no in the systemd.socket unit",
        ),
        (
            "socket(S, AF_UNIX, SOCK_DGRAM, 0) && bind(S, pack_sockaddr_un($path)) or die",
            "it is not a Unix stream socket; use ListenStream=/PATH in the systemd.socket unit",
        ),
        (
            "socket(S, AF_INET, SOCK_STREAM, 0) && listen(S, 8) or die",
            "it is not a Unix stream socket; use ListenStream=/PATH in the systemd.socket unit",
        ),
        (
            "open(S, '<', '/dev/null') or die",
            "descriptor 3 is not a socket",
        ),
        (
            "open(S, '<', '/dev/null') or die; $^F = 2; open(S, '<', '/dev/null') or die",
            "descriptor 3 is not open",
        ),
    ] {
        let home = Directory::new();
        let Some(mut command) = with_passed(&home, lines, "", &[]) else {
            return;
        };
        let ended = run(&mut command);
        let line = format!("llama-cpp-bridge: the socket passed in: {reason}\n");
        assert_eq!(ended.errors, line, "{lines}");
        assert_eq!(ended.code, Some(1), "{lines}");
    }
}

#[test]
fn a_wrong_word_on_what_is_passed_in_is_an_error() {
    for (variables, reason) in [
        (
            ", LISTEN_FDS => 2",
            "LISTEN_FDS: 2 sockets were passed in; a bridge serves one",
        ),
        (", LISTEN_FDS => 'x'", "LISTEN_FDS: 'x' is not a number"),
        (", LISTEN_PID => '-1'", "LISTEN_PID: '-1' is not a number"),
    ] {
        let home = Directory::new();
        let Some(mut command) = with_passed(&home, LISTENING, variables, &[]) else {
            return;
        };
        let ended = run(&mut command);
        assert_eq!(ended.errors, format!("llama-cpp-bridge: {reason}\n"));
        assert_eq!(ended.code, Some(1));
    }
}

#[test]
fn options_that_are_not_true_of_the_socket_are_refused() {
    let home = Directory::new();
    let socket = home.socket().display().to_string();
    let other = home.join("other").display().to_string();
    for (options, reason) in [
        (
            ["--socket", &other],
            format!("--socket: {other} is not the socket passed in, {socket}; omit the option"),
        ),
        (
            ["--socket-mode", "0666"],
            format!(
                "--socket-mode: the socket passed in, {socket}, already has its permissions; \
                 a systemd.socket unit sets them with SocketMode="
            ),
        ),
        (
            ["--socket-group", "0"],
            format!(
                "--socket-group: the socket passed in, {socket}, already has its permissions; \
                 a systemd.socket unit sets them with SocketGroup="
            ),
        ),
    ] {
        let Some(mut command) = with_passed(&home, LISTENING, "", &options) else {
            return;
        };
        let ended = run(&mut command);
        assert_eq!(ended.errors, format!("llama-cpp-bridge: {reason}\n"));
        fs::remove_file(home.socket()).expect("it is there");
    }
    // The same by another way, and a variable that is only a default.
    let detour = format!("{}/./socket", home.path().display());
    let Some(mut command) = with_passed(&home, LISTENING, "", &["--socket", &detour]) else {
        return;
    };
    command.env("LLAMA_CPP_BRIDGE_SOCKET", other);
    Bridge::start_command(&mut command, home.socket());
}

#[test]
fn what_was_passed_to_another_process_is_not_touched() {
    let home = Directory::new();
    let own = home.join("own");
    let options = ["--socket", own.to_str().expect("test paths are UTF-8")];
    for variables in [", LISTEN_PID => 1", ", LISTEN_FDS => 0"] {
        let Some(mut command) = with_passed(&home, LISTENING, variables, &options) else {
            return;
        };
        let bridge = Bridge::start_command(&mut command, own.clone());
        bridge.connect().exchange("PING", &ok("pong"));
        drop(bridge);
        fs::remove_file(home.socket()).expect("it is there");
    }
}

#[test]
fn systemd_starts_a_bridge_for_the_first_client() {
    let home = Directory::new();
    if Command::new("systemd-socket-activate")
        .arg("--version")
        .output()
        .is_err()
    {
        return skip("there is no systemd-socket-activate");
    }
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let mut command = Command::new("systemd-socket-activate");
    command
        .arg("--listen")
        .arg(home.socket())
        .arg(program())
        .args(["--threads", "1", "--temp", "0", "--model"])
        .arg(model);
    let mut bridge = Bridge::spawn(&mut command, home.socket());
    wait_until("systemd listens", || {
        bridge.errors().contains("Listening on")
    });
    assert!(!bridge.errors().contains("Execing"), "{}", bridge.errors());
    // More than one waits in the queue while the model is loaded.
    let mut first = bridge.connect();
    let mut second = Client::connect(&home.socket());
    first.ask("INFER w");
    second.ask("QUIT");
    let line = format!("listening on {}", home.socket().display());
    assert_eq!(bridge.output_line(), Some(line));
    first.expect(&completed("xyz"));
    first.vanish();
    second.expect(&ok("Goodbye"));
    assert_eq!(bridge.wait().code(), Some(0));
    assert!(home.socket().exists());
}
