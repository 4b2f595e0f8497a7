//! Many clients at once.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{Bridge, Directory, Tiny, completed, ok, run};

/// Has so many clients come at once, of whom some leave; all others are to be answered.
fn crowd(bridge: &Bridge, clients: u32, leaving: u32, seed: u32) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/proofs/crowd.py");
    let mut python = Command::new("python3");
    python.arg(program).arg(bridge.socket());
    python.args([clients, leaving, seed].map(|number| number.to_string()));
    let ended = run(&mut python);
    let staying = clients - leaving;
    let told = format!("{staying} clients were answered, {leaving} have left\n");
    assert_eq!(ended.output, told, "seed {seed}: {}", ended.errors);
}

/// How many files the bridge has open while it serves one client.
fn open_files(bridge: &Bridge) -> usize {
    let mut client = bridge.connect();
    client.exchange("PING", &ok("pong"));
    let files = fs::read_dir(format!("/proc/{}/fd", bridge.pid()));
    files.expect("the process runs").count()
}

#[test]
fn a_thousand_clients_at_once_are_answered_also_if_hundreds_of_them_leave() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let child = bridge.model_process();
    let files = open_files(&bridge);
    crowd(&bridge, 1000, 0, 0);
    for seed in 1..=3 {
        crowd(&bridge, 400, 250, seed);
    }
    assert_eq!(open_files(&bridge), files);
    bridge.connect().exchange("INFER w", &completed("xyz"));
    assert_eq!(
        bridge.model_process(),
        child,
        "the model process was replaced"
    );
}
