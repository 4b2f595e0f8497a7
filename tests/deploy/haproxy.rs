//! HAProxy in front of several bridges, with the configurations of `man/examples/`.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use crate::harness::{
    Bridge, Directory, Ended, LIMIT, Tiny, completed, ok, process, run, skip, wait_until,
};
use crate::llambo::commands::{Running, llambo};
use crate::llambo::map::{carousel_answers, prompts};

/// Whether there is a program of this name.
pub(crate) fn have(name: &str) -> bool {
    run(Command::new("sh").args(["-c", &format!("command -v {name}")])).code == Some(0)
}

/// An example, with each text replaced by the one beside it.
fn example(name: &str, replace: &[(&str, &str)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("man/examples")
        .join(name);
    let mut text = fs::read_to_string(path).expect("the example is there");
    for (from, to) in replace {
        assert!(text.contains(from), "{name} has no '{from}'");
        text = text.replace(from, to);
    }
    text
}

/// A running HAProxy. It is killed when the test ends.
struct Haproxy(Child);

impl Haproxy {
    /// Starts it with this configuration, which it must find nothing wrong with.
    fn start(command: &mut Command, home: &Directory, name: &str, configuration: &str) -> Haproxy {
        let path = home.join(name);
        fs::write(&path, configuration).expect("it can be written");
        let checked = run(Command::new("haproxy").arg("-c").arg("-f").arg(&path));
        assert_eq!(checked.code, Some(0), "{checked:?}");
        assert!(!checked.errors.contains("[WARNING]"), "{checked:?}");
        let child = command
            .args(["haproxy", "-db", "-f"])
            .arg(&path)
            .stderr(Stdio::null());
        Haproxy(child.spawn().expect("haproxy starts"))
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    listener.local_addr().expect("it has an address").port()
}

/// Four bridges with the same model, and HAProxy in front of them.
struct Farm {
    homes: Vec<Directory>,
    bridges: Vec<Bridge>,
    _haproxy: Haproxy,
    port: u16,
}

impl Farm {
    fn start() -> Farm {
        let homes: Vec<Directory> = (0..4).map(|_| Directory::new()).collect();
        let bridges = homes.iter().map(bridge).collect();
        let port = free_port();
        let near = format!("bind 127.0.0.1:{port}");
        let sockets: Vec<String> = homes
            .iter()
            .map(|home| home.socket().display().to_string())
            .collect();
        let text = example(
            "haproxy.cfg",
            &[
                ("bind 127.0.0.1:7070", &near),
                // A certificate is another test's.
                (
                    "    bind :7071 ssl crt /etc/haproxy/bridge.pem ca-file /etc/haproxy/clients-ca.pem verify required\n    default_backend bridges\n",
                    "",
                ),
                ("frontend far\n", ""),
                ("/tmp/llama-cpp-bridge-1.sock", &sockets[0]),
                ("/tmp/llama-cpp-bridge-2.sock", &sockets[1]),
                ("/tmp/llama-cpp-bridge-3.sock", &sockets[2]),
                ("/tmp/llama-cpp-bridge-4.sock", &sockets[3]),
            ],
        );
        let haproxy = Haproxy::start(&mut Command::new("env"), &homes[0], "haproxy.cfg", &text);
        wait_until("HAProxy listens", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Farm {
            homes,
            bridges,
            _haproxy: haproxy,
            port,
        }
    }

    fn signal(&self, which: usize, name: &str) {
        process::signal(self.bridges[which].pid(), name);
    }

    /// Starts clients that ask one question each; what each hears comes from the receiver:
    /// its number, and the reply, or what came before the end of the connection.
    fn clients(&self, numbers: std::ops::Range<usize>) -> Receiver<(usize, String)> {
        let (send, heard) = mpsc::channel();
        for number in numbers {
            let (send, port) = (send.clone(), self.port);
            thread::spawn(move || send.send((number, ask(port, number))));
        }
        heard
    }
}

fn bridge(home: &Directory) -> Bridge {
    let model = home.join("model.gguf");
    if !model.exists() {
        Tiny::carousel().write(model.clone());
    }
    Bridge::with_model(home, &model, &["--max-tokens", "20"])
}

/// Asks one question by a connection of its own; an error is an end.
fn ask(port: u16, number: usize) -> String {
    let mut reply = String::new();
    if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
        let _ = stream.set_read_timeout(Some(LIMIT));
        let _ = stream.write_all(format!("INFER {}", prompt(number)).as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_string(&mut reply);
    }
    reply
}

fn prompt(number: usize) -> String {
    prompts(number + 1)
        .lines()
        .last()
        .map(|line| format!("{line}\n"))
        .unwrap_or_default()
}

/// What the model says to it.
fn answer(number: usize) -> String {
    let answers = carousel_answers(number + 1, 20);
    completed(answers.lines().last().unwrap_or_default()) + "\n"
}

fn missing() -> bool {
    let missing = !have("haproxy");
    if missing {
        skip("there is no haproxy");
    }
    missing
}

#[test]
fn of_a_hundred_clients_only_the_one_of_a_killed_bridge_is_not_answered() {
    if missing() {
        return;
    }
    let mut farm = Farm::start();
    // One is slow, one is going to be killed: each has a client that waits.
    farm.signal(0, "STOP");
    farm.signal(1, "STOP");
    let heard = farm.clients(0..100);
    let mut answers = Vec::new();
    for _ in 0..30 {
        answers.push(heard.recv_timeout(LIMIT).expect("a client is answered"));
    }
    farm.signal(1, "KILL");
    farm.bridges[1].wait();
    farm.bridges[1] = bridge(&farm.homes[1]);
    for _ in 0..69 {
        answers.push(heard.recv_timeout(LIMIT).expect("a client is answered"));
    }
    farm.signal(0, "CONT");
    answers.push(heard.recv_timeout(LIMIT).expect("the slow one answers too"));
    let lost: Vec<_> = answers
        .iter()
        .filter(|(_, reply)| reply.is_empty())
        .collect();
    assert_eq!(lost.len(), 1, "{lost:?}");
    for (number, reply) in answers.iter().filter(|(_, reply)| !reply.is_empty()) {
        assert_eq!(*reply, answer(*number));
    }
    // The bridge that was started again has its clients as before.
    for other in [0, 2, 3] {
        farm.signal(other, "STOP");
    }
    let heard = farm.clients(0..4);
    let (number, reply) = heard.recv_timeout(LIMIT).expect("the fourth answers");
    assert_eq!(reply, answer(number));
}

#[test]
fn map_through_haproxy_has_every_line_once_and_in_order() {
    if missing() {
        return;
    }
    let farm = Farm::start();
    let address = format!("tcp:127.0.0.1:{}", farm.port);
    let mut arguments = vec!["--retry", "50"];
    for _ in 0..4 {
        arguments.extend(["-s", &address]);
    }
    arguments.extend(["map", "-n", "20"]);
    let mut running = Running::start(&mut llambo(&farm.homes[0], &arguments));
    running.write(&prompts(100));
    running.wait_for("\n");
    farm.signal(3, "KILL");
    farm.signal(2, "STOP");
    running.write(&prompts(100));
    drop(running.child.stdin.take());
    farm.signal(2, "CONT");
    let expected = carousel_answers(100, 20).repeat(2);
    assert_eq!(running.wait_for(&expected), expected);
    assert_eq!(running.child.wait().expect("llambo ends").code(), Some(0));
}

/// A network of its own, as another host has one. It goes when the test ends.
struct Host(String);

impl Host {
    fn new(name: &str) -> Option<Host> {
        let host = Host(format!("lcb-{name}-{}", std::process::id()));
        (ip(&["netns", "add", &host.0]).code == Some(0)).then_some(host)
    }

    /// A command that runs on it.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    /// Gives it this address at its end of the cable.
    fn address(&self, address: &str) {
        for arguments in [
            vec!["addr", "add", address, "dev", "wire"],
            vec!["link", "set", "wire", "up"],
            vec!["link", "set", "lo", "up"],
        ] {
            let set = ip(&[&["-n", &self.0], &arguments[..]].concat());
            assert_eq!(set.code, Some(0), "{set:?}");
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.0]);
    }
}

fn ip(arguments: &[&str]) -> Ended {
    run(Command::new("ip").args(arguments))
}

/// Makes certificates: one authority for both sides here, each with its own certificate.
const CERTIFICATES: &str = r#"set -e
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem
sign() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr"
    printf 'subjectAltName=DNS:%s\n' "$1" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -CAcreateserial -days 2 -extfile "$1.ext" -out "$1.crt"
    cat "$1.crt" "$1.key" >"$1.pem"
}
sign bridges.example.org ca
sign client ca
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=other -keyout other.key -out other.pem
sign stranger other
"#;

#[test]
fn bridges_of_another_host_are_asked_by_tls_and_only_with_a_certificate() {
    if missing() {
        return;
    }
    if !have("openssl") || !have("ip") {
        return skip("there is no openssl, or no ip");
    }
    let (Some(far), Some(near)) = (Host::new("far"), Host::new("near")) else {
        return skip("no network namespace can be made here");
    };
    let wire = [
        "link", "add", "wire", "netns", &far.0, "type", "veth", "peer", "name", "wire",
    ];
    let wired = ip(&[&wire[..], &["netns", &near.0]].concat());
    if wired.code != Some(0) {
        return skip("no cable between two network namespaces can be made here");
    }
    far.address("10.77.0.1/24");
    near.address("10.77.0.2/24");
    let home = Directory::new();
    let made = run(Command::new("sh")
        .args(["-c", CERTIFICATES])
        .current_dir(home.path()));
    assert_eq!(made.code, Some(0), "{made:?}");
    let bridge = bridge(&home);

    let file = |name: &str| home.join(name).display().to_string();
    let server = example(
        "haproxy.cfg",
        &[
            ("/etc/haproxy/bridge.pem", &file("bridges.example.org.pem")),
            ("/etc/haproxy/clients-ca.pem", &file("ca.pem")),
            (
                "/tmp/llama-cpp-bridge-1.sock",
                &home.socket().display().to_string(),
            ),
        ],
    );
    let _server = Haproxy::start(&mut far.command("env"), &home, "server.cfg", &server);
    for (certificate, answers) in [("client.pem", true), ("stranger.pem", false)] {
        let socket = file(&format!("{certificate}.sock"));
        let client = example(
            "haproxy-client.cfg",
            &[
                ("/tmp/llama-cpp-bridge.sock", &socket),
                ("far bridges.example.org:7071", "far 10.77.0.1:7071"),
                ("/etc/haproxy/client.pem", &file(certificate)),
                ("/etc/haproxy/bridges-ca.pem", &file("ca.pem")),
            ],
        );
        let _client = Haproxy::start(&mut near.command("env"), &home, "client.cfg", &client);
        wait_until("the socket is there", || Path::new(&socket).exists());
        let ask = |request: &str| {
            let mut reply = String::new();
            let mut stream = std::os::unix::net::UnixStream::connect(&socket).expect("it listens");
            let _ = stream.write_all(request.as_bytes());
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_string(&mut reply);
            reply
        };
        if answers {
            wait_until("the other host is there", || {
                ask("PING\n") == ok("pong") + "\n"
            });
            let told = run(&mut llambo(&home, &["-s", &socket, "infer", "a"]));
            assert_eq!(told.output, "bcdefghijklmnopqrstu\n", "{told:?}");
        } else {
            assert_eq!(ask("PING\n"), "");
        }
    }
    drop(bridge);
}
