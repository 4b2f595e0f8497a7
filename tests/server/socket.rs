//! The socket's life: its permissions, who may have its path, and what is left of it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{
    Bridge, Directory, Ended, LIMIT, command, failure, lines_of, ok, process, program, run, skip,
    wait_until,
};

/// Permission bits of the socket.
fn mode(socket: &Path) -> u32 {
    fs::symlink_metadata(socket)
        .expect("the socket is there")
        .permissions()
        .mode()
        & 0o7777
}

/// Expects that the bridge said why it could not serve, in one line that has `part`.
fn expect_refusal(ended: &Ended, part: &str) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(ended.output, "", "{ended:?}");
    assert!(ended.errors.starts_with("llama-cpp-bridge: "), "{ended:?}");
    assert!(ended.errors.contains(part), "{ended:?}");
    assert_eq!(ended.errors.lines().count(), 1, "{ended:?}");
}

#[test]
fn one_line_on_standard_output_says_that_the_bridge_serves() {
    let home = Directory::new();
    let mut bridge = Bridge::start(&home, &[]);
    bridge.connect().exchange("QUIT", &ok("Goodbye"));
    bridge.expect_stop(&[]);
    assert_eq!(bridge.output_line(), None);
    assert_eq!(Bridge::start(&home, &[]).all_errors(), "");
}

#[test]
fn a_readiness_line_that_cannot_be_written_is_an_error() {
    let home = Directory::new();
    let script = "exec \"$0\" --socket \"$1\" > /dev/full";
    let mut shell = Command::new("sh");
    let ended = run(shell.args(["-c", script]).arg(program()).arg(home.socket()));
    expect_refusal(&ended, "standard output");
    assert_eq!(left_in(&home), Vec::<String>::new());
}

#[test]
fn a_socket_is_the_owners_alone_whatever_the_umask() {
    for umask in ["000", "022", "077", "777"] {
        let home = Directory::new();
        let bridge = Bridge::start_command(&mut under_umask(umask, &home, &[]), home.socket());
        assert_eq!(mode(bridge.socket()), 0o600, "umask {umask}");
        bridge.connect().exchange("PING", &ok("pong"));
    }
}

#[test]
fn a_socket_gets_the_mode_that_was_asked_for_whatever_the_umask() {
    for (umask, asked) in [
        ("000", "0660"),
        ("077", "660"),
        ("022", "0777"),
        ("777", "0666"),
    ] {
        let home = Directory::new();
        let mut command = under_umask(umask, &home, &["--socket-mode", asked]);
        let bridge = Bridge::start_command(&mut command, home.socket());
        let expected = u32::from_str_radix(asked, 8).expect("octal");
        assert_eq!(
            mode(bridge.socket()),
            expected,
            "umask {umask}, asked for {asked}"
        );
    }
}

/// A command that starts the bridge under another umask.
fn under_umask(umask: &str, home: &Directory, options: &[&str]) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"])
        .arg(program());
    shell.arg("--socket").arg(home.socket()).args(options);
    shell
}

#[test]
fn a_socket_is_the_owners_alone_from_the_moment_it_exists() {
    let home = Directory::new();
    if Command::new("strace").arg("-V").output().is_err() {
        return skip("there is no strace to watch the system calls with");
    }
    let trace = home.join("trace");
    let mut traced = Command::new("strace");
    traced.args([
        "-f",
        "-e",
        "trace=umask,bind,chmod,fchmod,fchmodat,?fchmodat2",
        "-o",
    ]);
    traced
        .arg(&trace)
        .arg(program())
        .arg("--socket")
        .arg(home.socket());
    let mut bridge = Bridge::start_command(&mut traced, home.socket());
    // Killing strace would let the bridge run on.
    bridge.connect().exchange("QUIT", &ok("Goodbye"));
    bridge.wait();
    let calls = fs::read_to_string(&trace).expect("strace wrote its trace");
    let bind = calls.find("bind(").expect("the socket was bound");
    let umask = calls.find("umask(0177)").expect("the umask was set");
    assert!(umask < bind, "{calls}");
    assert!(!calls.contains("chmod"), "{calls}");
}

#[test]
fn a_socket_is_given_to_a_group() {
    let home = Directory::new();
    let own = fs::metadata(home.path())
        .expect("the directory is there")
        .gid();
    // Root may give a socket to any group, others to their own.
    let group = if own == 0 { 65533 } else { own };
    let options = [
        "--socket-group",
        &group.to_string(),
        "--socket-mode",
        "0660",
    ];
    let bridge = Bridge::start(&home, &options);
    let metadata = fs::symlink_metadata(bridge.socket()).expect("the socket is there");
    assert_eq!(metadata.gid(), group);
    assert_eq!(mode(bridge.socket()), 0o660);
    bridge.connect().exchange("PING", &ok("pong"));
}

#[test]
fn a_group_may_be_given_by_name() {
    let home = Directory::new();
    let name = Command::new("id")
        .arg("-gn")
        .output()
        .expect("id runs")
        .stdout;
    let name = String::from_utf8(name).expect("a name is text");
    let bridge = Bridge::start(&home, &["--socket-group", name.trim()]);
    let own = fs::metadata(home.path())
        .expect("the directory is there")
        .gid();
    assert_eq!(
        fs::symlink_metadata(bridge.socket())
            .expect("it is there")
            .gid(),
        own
    );
    assert_eq!(mode(bridge.socket()), 0o600);
}

#[test]
fn a_group_that_does_not_exist_is_an_error() {
    let home = Directory::new();
    let ended = run(&mut command(&home, &["--socket-group", "no-such-group"]));
    expect_refusal(&ended, "no-such-group");
    assert_eq!(left_in(&home), Vec::<String>::new());
}

#[test]
fn a_live_bridge_on_the_path_is_not_disturbed() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.exchange("PING", &ok("pong"));
    let inode = fs::symlink_metadata(home.socket())
        .expect("the socket is there")
        .ino();
    for _ in 0..3 {
        expect_refusal(
            &run(&mut command(&home, &[])),
            home.socket().to_str().expect("UTF-8"),
        );
    }
    client.exchange("PING", &ok("pong"));
    client.vanish();
    bridge.connect().exchange("PING", &ok("pong"));
    assert_eq!(
        fs::symlink_metadata(home.socket())
            .expect("still there")
            .ino(),
        inode
    );
}

#[test]
fn another_server_on_the_path_is_not_disturbed() {
    let home = Directory::new();
    let listener = UnixListener::bind(home.socket()).expect("a socket can be made");
    expect_refusal(
        &run(&mut command(&home, &[])),
        home.socket().to_str().expect("UTF-8"),
    );
    assert!(home.socket().exists());
    drop(listener);
}

#[test]
fn another_server_that_takes_no_more_clients_does_not_hold_the_start() {
    let home = Directory::new();
    // A queue of one client, and as many more as there is room for.
    let script = r#"
        use Socket qw(:DEFAULT SOCK_NONBLOCK);
        my $address = pack_sockaddr_un($ARGV[0]);
        socket(my $server, PF_UNIX, SOCK_STREAM, 0) or die;
        bind($server, $address) or die;
        listen($server, 0) or die;
        my @clients;
        while (@clients < 100) {
            socket(my $client, PF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0) or die;
            push @clients, $client;
            last unless connect($client, $address);
        }
        $| = 1;
        print "$!\n";
        <STDIN>;
    "#;
    let mut perl = Command::new("perl");
    perl.args(["-e", script]).arg(home.socket());
    // It ends with its standard input, so with this test at the latest.
    perl.stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut server) = perl.spawn() else {
        return skip("there is no perl to listen and accept nothing");
    };
    let full = lines_of(server.stdout.take().expect("it is a pipe")).recv_timeout(LIMIT);
    let ended = run(&mut command(&home, &[]));
    server.kill().expect("it can be killed");
    server.wait().expect("it ends");
    assert_eq!(full.as_deref(), Ok("Resource temporarily unavailable"));
    expect_refusal(&ended, "another server is listening there");
    assert!(home.socket().exists());
}

#[test]
fn what_is_not_a_lock_is_named_and_left_alone() {
    let home = Directory::new();
    let lock = home.join("socket.lock");
    let refused = |what: &str| {
        let message = format!("{}: is {what}, not a bridge's lock file", lock.display());
        expect_refusal(&run(&mut command(&home, &[])), &message);
        assert_eq!(left_in(&home), ["socket.lock"]);
    };
    let made = Command::new("mkfifo").arg(&lock).status();
    assert!(made.expect("mkfifo runs").success());
    refused("a FIFO");
    fs::remove_file(&lock).expect("it is still there");

    fs::create_dir(&lock).expect("a directory can be made");
    refused("a directory");
    fs::remove_dir(&lock).expect("it is still there");

    std::os::unix::fs::symlink("elsewhere", &lock).expect("a link can be made");
    refused("a symbolic link");
    fs::remove_file(&lock).expect("it is still there");

    drop(UnixListener::bind(&lock).expect("a socket can be made"));
    refused("a socket");
}

#[test]
fn a_stale_socket_is_replaced() {
    let home = Directory::new();
    drop(UnixListener::bind(home.socket()).expect("a socket can be made"));
    assert!(home.socket().exists());
    let bridge = Bridge::start(&home, &[]);
    bridge.connect().exchange("PING", &ok("pong"));
    assert_eq!(mode(bridge.socket()), 0o600);
}

#[test]
fn what_a_killed_bridge_left_behind_is_replaced() {
    let home = Directory::new();
    let mut first = Bridge::start(&home, &[]);
    process::signal(first.pid(), "KILL");
    first.wait();
    assert!(home.socket().exists());
    let mut next = Bridge::start(&home, &[]);
    next.connect().exchange("QUIT", &ok("Goodbye"));
    next.expect_stop(&[]);
}

#[test]
fn what_is_not_a_socket_is_left_alone() {
    let home = Directory::new();
    fs::write(home.socket(), "precious").expect("a file can be written");
    expect_refusal(&run(&mut command(&home, &[])), "not a socket");
    assert_eq!(
        fs::read_to_string(home.socket()).expect("it is there"),
        "precious"
    );
    fs::remove_file(home.socket()).expect("it can go");

    fs::create_dir(home.socket()).expect("a directory can be made");
    expect_refusal(&run(&mut command(&home, &[])), "not a socket");
    fs::remove_dir(home.socket()).expect("it is still there");

    std::os::unix::fs::symlink("nowhere", home.socket()).expect("a link can be made");
    expect_refusal(&run(&mut command(&home, &[])), "not a socket");
    assert_eq!(left_in(&home), ["socket"]);
}

#[test]
fn of_two_bridges_started_at_the_same_moment_one_serves() {
    let home = Directory::new();
    for round in 0..10 {
        if round % 2 == 1 {
            // With a stale socket on the path as well.
            drop(UnixListener::bind(home.socket()).expect("a socket can be made"));
        }
        let mut bridges: Vec<Bridge> = (0..4)
            .map(|_| Bridge::spawn(&mut command(&home, &[]), home.socket()))
            .collect();
        let served: Vec<bool> = bridges
            .iter()
            .map(|bridge| bridge.output_line().is_some())
            .collect();
        assert_eq!(
            served.iter().filter(|&&served| served).count(),
            1,
            "round {round}"
        );
        bridges[0].connect().exchange("PING", &ok("pong"));
        for (bridge, served) in bridges.iter_mut().zip(served) {
            if served {
                bridge.connect().exchange("QUIT", &ok("Goodbye"));
                bridge.expect_stop(&[]);
            } else {
                assert_eq!(bridge.wait().code(), Some(1), "{}", bridge.errors());
            }
        }
        assert_eq!(left_in(&home), Vec::<String>::new());
    }
}

#[test]
fn a_path_may_be_as_long_as_a_socket_address_and_not_a_byte_longer() {
    let home = Directory::new();
    let longest = of_length(&home, 107);
    let mut start = Command::new(program());
    let bridge = Bridge::start_command(start.arg("--socket").arg(&longest), longest.clone());
    bridge.connect().exchange("PING", &ok("pong"));
    let too_long = of_length(&home, 108);
    let ended = run(Command::new(program()).arg("--socket").arg(&too_long));
    expect_refusal(&ended, "107");
    assert!(!too_long.exists());
}

/// A path of this many bytes in the directory.
fn of_length(home: &Directory, bytes: usize) -> PathBuf {
    let start = home.path().as_os_str().len() + 1;
    home.join(&"x".repeat(bytes - start))
}

#[test]
fn a_directory_that_is_missing_is_an_error() {
    let home = Directory::new();
    let socket = home.join("missing/socket");
    let ended = run(Command::new(program()).arg("--socket").arg(&socket));
    expect_refusal(
        &ended,
        &format!(
            "the directory {} does not exist",
            home.join("missing").display()
        ),
    );
}

#[test]
fn a_socket_that_somebody_else_put_there_is_not_removed() {
    let home = Directory::new();
    let mut bridge = Bridge::start(&home, &[]);
    fs::remove_file(home.socket()).expect("the socket can be removed");
    let _other = UnixListener::bind(home.socket()).expect("another can be made");
    process::signal(bridge.pid(), "TERM");
    assert_eq!(bridge.wait().code(), Some(0));
    let kind = fs::symlink_metadata(home.socket())
        .expect("it is still there")
        .file_type();
    assert!(kind.is_socket());
}

#[test]
fn nothing_is_left_beside_the_socket() {
    let home = Directory::new();
    let mut bridge = Bridge::start(&home, &[]);
    wait_until("the socket is there", || bridge.socket().exists());
    bridge.connect().exchange(
        "DANCE",
        &failure("unknown_command", "Unknown command: DANCE"),
    );
    bridge.connect().exchange("QUIT", &ok("Goodbye"));
    bridge.expect_stop(&[]);
    assert_eq!(left_in(&home), Vec::<String>::new());
}

/// The names of all that is in the directory.
fn left_in(home: &Directory) -> Vec<String> {
    let entries = fs::read_dir(home.path())
        .expect("the directory can be read")
        .flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
