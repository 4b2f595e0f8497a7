//! What a service manager is told, over a socket of the test's own.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Bridge, Directory, LIMIT, Tiny, command, completed, ok, process};

/// A service manager that listens.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn at(path: &Path) -> Manager {
        Manager::on(UnixDatagram::bind(path).expect("a socket can be bound"))
    }

    fn on(socket: UnixDatagram) -> Manager {
        socket
            .set_read_timeout(Some(LIMIT))
            .expect("a time limit can be set");
        Manager {
            socket,
            heard: Vec::new(),
        }
    }

    /// The next message.
    fn hear(&mut self) -> String {
        let mut bytes = [0; 4096];
        let count = loop {
            match self.socket.recv(&mut bytes) {
                Ok(count) => break count,
                // A process that was stopped and continued: a read with a time limit tells.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}; heard: {:?}", self.heard),
            }
        };
        let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
        self.heard.push(text.clone());
        text
    }

    /// Passes over what is said until a message says this.
    fn wait_for(&mut self, line: &str) {
        while !self.hear().lines().any(|heard| heard == line) {}
    }
}

/// A command that starts a bridge with a model.
fn with_manager(home: &Directory, model: &Path, options: &[&str]) -> (Command, Manager) {
    let manager = Manager::at(&home.join("notify"));
    let named = model.to_str().expect("test paths are UTF-8");
    let options = [&["--temp", "0", "--model", named], options].concat();
    let mut command = command(home, &options);
    command
        .env("NOTIFY_SOCKET", home.join("notify"))
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID");
    (command, manager)
}

#[test]
fn a_manager_is_told_when_the_bridge_serves_and_when_it_ends() {
    for end in ["QUIT", "TERM"] {
        let home = Directory::new();
        let model = Tiny::alphabet().write(home.join("tiny.gguf"));
        let (mut command, mut manager) = with_manager(&home, &model, &[]);
        let mut bridge = Bridge::spawn(&mut command, home.socket());
        assert_eq!(manager.hear(), "READY=1\n");
        // It was not said before it was true.
        let mut client = bridge.connect();
        client.exchange("PING", &ok("pong"));
        match end {
            "QUIT" => client.exchange("QUIT", &ok("Goodbye")),
            _ => process::signal(bridge.pid(), "TERM"),
        }
        assert_eq!(manager.hear(), "STOPPING=1\n");
        client.vanish();
        bridge.expect_stop(&[]);
    }
}

#[test]
fn a_manager_with_an_abstract_name_is_told() {
    let home = Directory::new();
    let name = home.join("notify").display().to_string();
    let address = SocketAddr::from_abstract_name(&name).expect("the name is short");
    let socket = UnixDatagram::bind_addr(&address).expect("a socket can be bound");
    let mut manager = Manager::on(socket);
    let mut command = command(&home, &[]);
    command.env("NOTIFY_SOCKET", format!("@{name}"));
    let _bridge = Bridge::start_command(&mut command, home.socket());
    assert_eq!(manager.hear(), "READY=1\n");
}

#[test]
fn a_watchdog_gets_a_sign_of_life_twice_in_its_interval_also_under_a_request() {
    let home = Directory::new();
    let model = Tiny::endless().write(home.join("endless.gguf"));
    let (mut command, mut manager) = with_manager(&home, &model, &["-n", "-1", "-c", "0"]);
    command.env("WATCHDOG_USEC", "400000");
    let bridge = Bridge::start_command(&mut command, home.socket());
    manager.wait_for("READY=1");
    let mut client = bridge.connect();
    client.ask("STREAM w");
    client.receive();
    manager.wait_for("WATCHDOG=1");
    let start = Instant::now();
    for _ in 0..5 {
        manager.wait_for("WATCHDOG=1");
    }
    let passed = start.elapsed();
    assert!(passed >= Duration::from_millis(900), "{passed:?}");
    // A busy machine may be late, but not by so much that four are lost.
    assert!(passed < Duration::from_secs(2), "{passed:?}");
}

#[test]
fn a_watchdog_gets_signs_of_life_until_the_last_reply_is_taken() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let (mut command, mut manager) = with_manager(&home, &model, &[]);
    command.env("WATCHDOG_USEC", "400000");
    let mut bridge = Bridge::start_command(&mut command, home.socket());
    let mut client = bridge.connect();
    // More than the socket holds, and nobody reads it.
    client.send("HELP\n".repeat(400) + "QUIT\n");
    manager.wait_for("STOPPING=1");
    let before = process::ticks(bridge.pid());
    for _ in 0..4 {
        manager.wait_for("WATCHDOG=1");
    }
    let used = process::ticks(bridge.pid()) - before;
    assert!(used < 10, "{used} ticks");
    client.vanish();
    bridge.expect_stop(&[]);
}

#[test]
fn a_watchdog_of_another_process_gets_no_sign_of_life() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let (mut command, mut manager) = with_manager(&home, &model, &[]);
    command
        .env("WATCHDOG_USEC", "1000")
        .env("WATCHDOG_PID", "1");
    let bridge = Bridge::start_command(&mut command, home.socket());
    bridge.connect().exchange("INFER w", &completed("xyz"));
    bridge.connect().exchange("QUIT", &ok("Goodbye"));
    manager.wait_for("STOPPING=1");
    let heard = manager.heard.concat();
    assert!(!heard.contains("WATCHDOG"), "{heard}");
}

#[test]
fn the_model_process_is_told_nothing_of_the_manager() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let (mut command, _manager) = with_manager(&home, &model, &[]);
    command.env("WATCHDOG_USEC", "60000000").env("STAYS", "1");
    let bridge = Bridge::start_command(&mut command, home.socket());
    let environment = std::fs::read(format!("/proc/{}/environ", bridge.model_process()));
    let environment = environment.expect("the process runs");
    let environment = String::from_utf8_lossy(&environment);
    assert!(environment.contains("STAYS=1"), "{environment}");
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC"] {
        assert!(!environment.contains(name), "{environment}");
    }
}

#[test]
fn a_manager_that_does_not_listen_or_read_is_no_error() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let (mut command, manager) = with_manager(&home, &model, &[]);
    // Thousands of messages that nobody reads: the queue is soon full.
    command.env("WATCHDOG_USEC", "2000");
    let bridge = Bridge::start_command(&mut command, home.socket());
    let mut client = bridge.connect();
    client.expect_silence(Duration::from_millis(300));
    client.exchange("INFER w", &completed("xyz"));
    drop(manager);
    client.exchange("INFER w", &completed("xyz"));
    drop(client);
    assert_eq!(bridge.all_errors(), "");
}

#[test]
fn an_address_that_makes_no_sense_is_told_once_and_the_bridge_serves() {
    let home = Directory::new();
    let mut command = command(&home, &[]);
    command.env("NOTIFY_SOCKET", "notify");
    let bridge = Bridge::start_command(&mut command, home.socket());
    bridge.connect().exchange("PING", &ok("pong"));
    assert_eq!(
        bridge.all_errors(),
        "llama-cpp-bridge: NOTIFY_SOCKET: 'notify': neither a path nor @ and a name\n"
    );
}
