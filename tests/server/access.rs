//! Whom the bridge serves, and with which verbs.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::harness::{Bridge, Directory, command, failure, ok, run, skip};

/// A user and a group that no test runs as.
const OTHER: &str = "54321";

/// What id(1) says of who runs the tests.
fn id(option: &str) -> String {
    let ended = run(Command::new("id").arg(option));
    ended.output.trim().to_string()
}

/// What a client is told that is not served.
fn refusal(user: &str) -> String {
    failure("denied", &format!("Access denied for uid {user}"))
}

#[test]
fn a_client_that_is_in_neither_list_is_told_so_once() {
    for options in [
        &["--allow-uid", OTHER][..],
        &["--allow-gid", OTHER],
        &["--allow-uid", OTHER, "--allow-gid", "54322,54323"],
    ] {
        let home = Directory::new();
        let bridge = Bridge::start(&home, options);
        // The bridge is there for the next one at once, however the first behaves.
        for _ in 0..2 {
            let mut client = bridge.connect();
            client.try_ask("PING");
            client.expect(&refusal(&id("-u")));
            client.expect_end();
        }
    }
}

#[test]
fn a_client_in_one_of_the_lists_is_served() {
    for (option, who) in [
        ("--allow-uid", id("-u")),
        ("--allow-uid", id("-un")),
        ("--allow-uid", format!("{OTHER},{}", id("-un"))),
        ("--allow-gid", id("-g")),
        ("--allow-gid", id("-gn")),
    ] {
        let home = Directory::new();
        let bridge = Bridge::start(&home, &["--allow-uid", OTHER, option, &who]);
        bridge.connect().exchange("PING", &ok("pong"));
    }
}

/// What a client of another user and group, with these further groups, is told.
fn asked_as_other(bridge: &Bridge, groups: &str) -> String {
    let mut client = Command::new("setpriv");
    client
        .args(["--reuid", OTHER, "--regid", OTHER, "--groups", groups])
        .args(["nc", "-N", "-U"])
        .arg(bridge.socket());
    run(Command::new("sh")
        .args(["-c", "echo PING | \"$@\"", "sh"])
        .arg0("sh")
        .arg(client.get_program())
        .args(client.get_args()))
    .output
}

#[test]
fn further_groups_of_a_client_count() {
    if id("-u") != "0" {
        return skip("only root can be a client of another user");
    }
    for tool in ["setpriv", "nc"] {
        if Command::new(tool).arg("-h").output().is_err() {
            return skip(&format!(
                "there is no {tool} to be a client of another user with"
            ));
        }
    }
    let home = Directory::new();
    let open = ["--socket-mode", "0666", "--allow-gid", "61234"];
    let bridge = Bridge::start(&home, &open);
    assert_eq!(asked_as_other(&bridge, "61230,61234"), ok("pong") + "\n");
    assert_eq!(asked_as_other(&bridge, "61230"), refusal(OTHER) + "\n");
    // More of them than are asked for at first.
    let many: Vec<String> = (61100..61235).map(|group| group.to_string()).collect();
    assert_eq!(asked_as_other(&bridge, &many.join(",")), ok("pong") + "\n");
    // Root is like anyone else.
    bridge.connect().expect(&refusal("0"));
}

#[test]
fn a_user_or_group_that_does_not_exist_is_an_error() {
    for (option, name, error) in [
        ("--allow-uid", "no-such-user", "unknown user 'no-such-user'"),
        (
            "--allow-gid",
            "no-such-group",
            "unknown group 'no-such-group'",
        ),
        ("--allow-uid", "4294967295", "unknown user 4294967295"),
    ] {
        let home = Directory::new();
        let ended = run(&mut command(&home, &[option, name]));
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert_eq!(
            ended.errors,
            format!("llama-cpp-bridge: {option}: {error}\n")
        );
    }
    let home = Directory::new();
    let ended = run(&mut command(&home, &["--allow-uid", "1,,2"]));
    assert_eq!(ended.code, Some(2), "{ended:?}");
}

#[test]
fn a_verb_that_is_not_listed_is_denied_by_name() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &["--allow", "help,STATUS", "--allow", "info"]);
    let mut client = bridge.connect();
    for (request, name) in [
        ("LOAD x.gguf", "LOAD"),
        ("quit", "QUIT"),
        ("Infer", "INFER"),
    ] {
        let message = format!("{name} is not allowed on this bridge");
        client.exchange(request, &failure("denied", &message));
    }
    client.exchange("STATUS", &ok("No model loaded"));
    client.exchange("PING", &ok("pong"));
    client.exchange("AUTH x", &ok("No token is needed here"));
    client.exchange("FOO", &failure("unknown_command", "Unknown command: FOO"));
    client.ask("HELP");
    let help = client.receive();
    for verb in ["PING", "STATUS", "INFO", "HELP", "AUTH"] {
        assert!(help.contains(verb), "{help}");
    }
    assert_eq!(help.matches("\\n").count(), 4, "{help}");
}

#[test]
fn a_verb_that_does_not_exist_cannot_be_allowed() {
    let home = Directory::new();
    for list in ["PING,FLY", "fly", ""] {
        let ended = run(&mut command(&home, &["--allow", list]));
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.errors.contains("--allow: '"), "{ended:?}");
    }
}
