//! A bridge or a model that nobody uses: `--exit-idle` and `--idle-unload`.

use std::fs;
use std::time::{Duration, Instant};

use crate::harness::{
    Bridge, Client, Directory, Tiny, command, completed, ok, process, wait_until,
};

/// A bridge with a model and one option of the two, of a second.
fn with_limit(home: &Directory, option: &str) -> Bridge {
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    Bridge::with_model(home, &model, &[option, "1"])
}

fn told(home: &Directory) -> String {
    ok(&format!(
        "Model loaded: {}",
        home.join("tiny.gguf").display()
    ))
}

#[test]
fn a_bridge_that_nobody_uses_ends() {
    let home = Directory::new();
    let start = Instant::now();
    let mut bridge = with_limit(&home, "--exit-idle");
    let child = bridge.model_process();
    assert_eq!(bridge.wait().code(), Some(0));
    assert!(start.elapsed() >= Duration::from_secs(1));
    bridge.expect_stop(&[child]);
    assert_eq!(
        bridge.errors(),
        "llama-cpp-bridge: exiting: no client for 1 s (--exit-idle)\n"
    );
}

#[test]
fn whoever_is_in_the_queue_is_heard_before_the_bridge_ends() {
    let home = Directory::new();
    let mut bridge = Bridge::start(&home, &["--exit-idle", "1", "--allow-uid", "4294967294"]);
    let served = Instant::now();
    process::signal(bridge.pid(), "STOP");
    let mut clients: Vec<Client> = (0..3).map(|_| bridge.connect()).collect();
    // When it goes on, its time is over.
    clients[0].expect_silence(Duration::from_millis(1200));
    process::signal(bridge.pid(), "CONT");
    for client in &mut clients {
        client.expect_error("denied");
    }
    assert_eq!(bridge.wait().code(), Some(0));
    assert!(served.elapsed() >= Duration::from_secs(1));
}

#[test]
fn whoever_cannot_be_accepted_yet_keeps_the_bridge() {
    let home = Directory::new();
    let mut bridge = Bridge::start(&home, &["--exit-idle", "1"]);
    process::limit_files(bridge.pid(), 3);
    let mut client = bridge.connect();
    client.send("PING\n");
    // It is tried once a second, so that the time of the bridge is over.
    wait_until("the client was not accepted three times", || {
        bridge.errors().matches("accept: ").count() >= 3
    });
    process::limit_files(bridge.pid(), 1024);
    client.expect(&ok("pong"));
    client.vanish();
    assert_eq!(bridge.wait().code(), Some(0));
}

#[test]
fn a_client_keeps_the_bridge_however_idle_it_is() {
    let home = Directory::new();
    let mut bridge = with_limit(&home, "--exit-idle");
    let mut client = bridge.connect();
    client.exchange("PING", &ok("pong"));
    client.expect_silence(Duration::from_millis(1500));
    client.exchange("INFER w", &completed("xyz"));
    let left = Instant::now();
    client.vanish();
    assert_eq!(bridge.wait().code(), Some(0));
    assert!(left.elapsed() >= Duration::from_secs(1));
}

#[test]
fn a_model_that_no_request_needs_rests_and_the_next_one_wakes_it() {
    let home = Directory::new();
    let bridge = with_limit(&home, "--idle-unload");
    let mut client = bridge.connect();
    for _ in 0..2 {
        client.exchange("INFER w", &completed("xyz"));
        // What does not need the model does not keep it.
        wait_until("the model process is gone", || {
            client.exchange("PING", &ok("pong"));
            client.exchange("STATUS", &told(&home));
            process::children(bridge.pid()).is_empty() && process::zombies(bridge.pid()).is_empty()
        });
    }
    let line = format!(
        "llama-cpp-bridge: {}: unloaded after 1 s idle\n",
        home.join("tiny.gguf").display()
    );
    assert_eq!(bridge.errors(), line.repeat(2));
    client.exchange("FREE", &ok("Resources freed"));
}

#[test]
fn a_model_at_work_does_not_rest() {
    let home = Directory::new();
    let model = Tiny::endless().write(home.join("endless.gguf"));
    let options = ["--idle-unload", "1", "-n", "-1", "-c", "0"];
    let bridge = Bridge::with_model(&home, &model, &options);
    let mut client = bridge.connect();
    let child = bridge.model_process();
    let start = Instant::now();
    client.ask("STREAM w");
    while start.elapsed() < Duration::from_millis(1500) {
        client.receive();
    }
    assert_eq!(bridge.model_process(), child);
    client.vanish();
    wait_until("the model is unloaded", || {
        bridge.errors().contains("unloaded")
    });
}

#[test]
fn both_together_give_back_first_the_memory_and_then_the_rest() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let options = ["--idle-unload", "1", "--exit-idle", "2"];
    let mut bridge = Bridge::with_model(&home, &model, &options);
    Client::connect(&home.socket()).exchange("INFER w", &completed("xyz"));
    assert_eq!(bridge.wait().code(), Some(0));
    let lines: Vec<String> = bridge.errors().lines().map(String::from).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].ends_with("unloaded after 1 s idle"), "{lines:?}");
    assert!(
        lines[1].ends_with("exiting: no client for 2 s (--exit-idle)"),
        "{lines:?}"
    );
}

#[test]
fn without_the_options_nothing_rests_or_ends() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let options = ["--idle-unload", "0", "--exit-idle", "0"];
    let mut bridge = Bridge::with_model(&home, &model, &options);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    client.exchange("INFER w", &completed("xyz"));
    client.expect_silence(Duration::from_millis(1200));
    assert_eq!(bridge.model_process(), child);
    client.vanish();
    process::signal(bridge.pid(), "TERM");
    bridge.expect_stop(&[child]);
}

#[test]
fn a_model_that_was_taken_away_meanwhile_is_told_when_it_is_needed() {
    let home = Directory::new();
    let bridge = with_limit(&home, "--idle-unload");
    wait_until("the model is unloaded", || {
        bridge.errors().contains("unloaded")
    });
    fs::remove_file(home.join("tiny.gguf")).expect("it is there");
    let mut client = bridge.connect();
    client.exchange("STATUS", &told(&home));
    client.ask("INFER w");
    client.expect_error("load_failed");
    client.exchange("STATUS", &ok("No model loaded"));
}

#[test]
fn a_wrong_time_is_refused() {
    for option in ["--exit-idle", "--idle-unload"] {
        let home = Directory::new();
        let ended = crate::harness::run(&mut command(&home, &[option, "86401"]));
        assert_eq!(ended.code, Some(2));
        let line = format!(
            "llama-cpp-bridge: {option}: '86401' is not a number from 0 to 86400 \
             (--help lists the options)\n"
        );
        assert_eq!(ended.errors, line);
    }
}
