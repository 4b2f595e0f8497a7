//! The pool and the connection under faults: bridges that hang up, that are stopped or that come
//! back, and processes of Inferno that are killed.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, thread};

use super::emulator::{Inferno, Running};
use super::module::{address, program};
use crate::harness::{Bridge, Directory, Tiny, ok, process, run};

/// A text without an end, as far as tests can tell.
const ENDLESS: [&str; 4] = ["--ctx-size", "0", "--max-tokens", "-1"];

#[test]
fn a_limbo_pool_loses_no_request_to_an_address_that_accepts_and_hangs_up() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let (home, other) = (Directory::new(), Directory::new());
    let model = Tiny::alphabet().write(home.join("model.gguf"));
    let bridges = [&home, &other].map(|home| Bridge::with_model(home, &model, &[]));
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || listener.incoming().for_each(drop));
    let bad = format!("'tcp!127.0.0.1!{port}'");
    inferno.compile_with_module(&home, &program("workers.b"));
    let [first, second] = bridges.each_ref().map(address);
    let mut running = inferno.start(&home, "", "workers", &[&bad, &first, &second]);
    running.expect("24 of 24 right");
}

#[test]
fn a_limbo_pool_serves_from_two_bridges_while_a_third_is_stopped() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let homes = [Directory::new(), Directory::new(), Directory::new()];
    let model = Tiny::alphabet().write(homes[0].join("model.gguf"));
    let bridges = homes
        .each_ref()
        .map(|home| Bridge::with_model(home, &model, &[]));
    process::signal(bridges[0].pid(), "STOP");
    inferno.compile_with_module(&homes[0], &program("workers.b"));
    let addresses = bridges.each_ref().map(address);
    let addresses = addresses.each_ref().map(String::as_str);
    let mut running = inferno.start(&homes[0], "", "workers", &addresses);
    running.expect("24 of 24 right");
}

#[test]
fn an_idle_limbo_client_that_was_hung_up_connects_again_by_itself() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("model.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["--idle-timeout", "1"]);
    let (mut running, gate) = start_again(&inferno, &home, &bridge);
    // The bridge hangs up on the idle one to serve this one.
    bridge.connect().exchange("PING", &ok("pong"));
    open(&gate);
    running.expect("1 Inference completed xyz");
}

#[test]
fn a_limbo_client_goes_on_with_a_bridge_that_was_started_again() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("model.gguf"));
    let mut bridge = Bridge::with_model(&home, &model, &[]);
    let (mut running, gate) = start_again(&inferno, &home, &bridge);
    process::signal(bridge.pid(), "KILL");
    bridge.wait();
    let _bridge = Bridge::with_model(&home, &model, &[]);
    open(&gate);
    running.expect("1 Inference completed xyz");
}

/// Starts the program that asks, waits for its gate to open, and asks again; it has asked once.
fn start_again(inferno: &Inferno, home: &Directory, bridge: &Bridge) -> (Running, PathBuf) {
    let gate = fifo(home);
    inferno.compile_with_module(home, &program("again.b"));
    let path = format!("'#U*{}'", gate.display());
    let mut running = inferno.start(home, "", "again", &[&address(bridge), &path]);
    running.expect("1 Inference completed xyz");
    (running, gate)
}

#[test]
fn disconnect_frees_the_bridge_after_the_limbo_process_with_the_request_was_killed() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let model = Tiny::endless().write(home.join("model.gguf"));
    let bridge = Bridge::with_model(&home, &model, &ENDLESS);
    inferno.compile_with_module(&home, &program("killed.b"));
    let mut running = inferno.start(&home, "", "killed", &[&address(&bridge)]);
    running.expect("free: 1, the first connected: 0");
}

#[test]
fn a_killed_limbo_client_of_another_inferno_frees_the_bridge_at_once() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let model = Tiny::endless().write(home.join("model.gguf"));
    let bridge = Bridge::with_model(&home, &model, &ENDLESS);
    let port = free_port();
    let export = format!(
        "bind '#U*{}' /chan\n\
         listen -A 'tcp!127.0.0.1!{port}' {{export /chan&}}\n\
         echo exporting\n\
         cat /dev/null '#U*{}'",
        home.path().display(),
        fifo(&home).display()
    );
    let mut exporter = inferno.shell(&home, &export);
    exporter.expect("exporting");
    inferno.compile_with_module(&home, &program("killed.b"));
    let gate = home.join("gate2");
    make_fifo(&gate);
    let client = format!(
        "mount -A 'tcp!127.0.0.1!{port}' /chan\n\
         /dis/lib/killed.dis /chan/socket '#U*{}'",
        gate.display()
    );
    let mut running = inferno.shell(&home, &client);
    running.expect("asking");
    process::wait_for_work(bridge.model_process(), 2);
    let mut gate = open(&gate);
    running.expect("killed");
    // It serves one client at a time.
    bridge.connect().exchange("PING", &ok("pong"));
    gate.write_all(b"\n").expect("the program reads on");
}

#[test]
fn nothing_is_written_into_a_file_that_a_limbo_program_takes_for_a_socket() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let empty = home.join("empty");
    fs::write(&empty, "").expect("the file can be written");
    inferno.compile_with_module(&home, &super::emulator::sources().join("llambo-ffi-test.b"));
    let address = format!("unix!{}", empty.display());
    let output = inferno
        .start(&home, "", "llambo-ffi-test", &["-a", &address])
        .output();
    assert!(output.contains("is a file, not a socket"), "{output}");
    assert_eq!(fs::read(&empty).expect("the file is there"), b"");
}

/// A port that nothing listens on.
pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    listener.local_addr().expect("it is bound").port()
}

/// A fifo in this directory, on which a program of Inferno waits for the test.
pub(super) fn fifo(home: &Directory) -> PathBuf {
    let path = home.join("gate");
    make_fifo(&path);
    path
}

/// Makes a fifo.
pub(super) fn make_fifo(path: &Path) {
    let ended = run(Command::new("mkfifo").arg(path));
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
}

/// Lets the program that waits on this fifo go on.
pub(super) fn open(gate: &Path) -> fs::File {
    let mut gate = fs::File::options()
        .write(true)
        .open(gate)
        .expect("the program reads the fifo");
    gate.write_all(b"\n").expect("it takes a byte");
    gate
}
