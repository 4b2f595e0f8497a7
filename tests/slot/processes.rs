//! The bridge and its model process: how each ends, and what the other does then.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::{
    Bridge, Client, Directory, Tiny, command, completed, failure, ok, process, program, skip,
    wait_until, wait_within,
};

/// Ticks of work after which a request is taken to be well under way.
const UNDER_WAY: u64 = 10;

/// The signals that ask the bridge to stop.
const STOP_SIGNALS: [&str; 3] = ["TERM", "INT", "HUP"];

/// A bridge in the middle of a generation that does not end, its model process and its client.
fn generating(home: &Directory) -> (Bridge, u32, Client) {
    let model = Tiny::endless().write(home.join("endless.gguf"));
    let bridge = Bridge::with_model(home, &model, &["-n", "-1", "-c", "0"]);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    client.ask("INFER a");
    process::wait_for_work(child, UNDER_WAY);
    (bridge, child, client)
}

/// A bridge in the middle of a long prompt, its model process and its client.
fn evaluating(home: &Directory) -> (Bridge, u32, Client) {
    let model = Tiny::slow().write(home.join("slow.gguf"));
    let bridge = Bridge::with_model(home, &model, &[]);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    client.ask(&format!("INFER {}", "a".repeat(3000)));
    process::wait_for_work(child, UNDER_WAY);
    (bridge, child, client)
}

fn load_line(model: &Path) -> String {
    format!("LOAD {}", model.display())
}

#[test]
fn a_model_process_killed_while_generating_is_told_to_the_client() {
    let home = Directory::new();
    let (bridge, child, mut client) = generating(&home);
    process::signal(child, "KILL");
    client.expect(&failure(
        "model_died",
        "Model process died: killed by SIGKILL",
    ));
    // The connection lives, and the model comes back when it is needed.
    client.exchange("PING", &ok("pong"));
    let told = format!("Model loaded: {}", home.join("endless.gguf").display());
    client.exchange("STATUS", &ok(&told));
    assert_eq!(process::children(bridge.pid()), [0; 0]);
    client.exchange("INFER !", &completed(""));
    assert_ne!(bridge.model_process(), child);
    assert_eq!(process::zombies(bridge.pid()), [0; 0]);
}

#[test]
fn a_model_process_that_dies_of_another_signal_is_told_with_its_name() {
    let home = Directory::new();
    for signal in ["ABRT", "FPE", "ILL"] {
        let (_bridge, child, mut client) = generating(&home);
        process::signal(child, signal);
        let reply = client.receive();
        let start = r#"{"status":"error","message":"Model process died: "#;
        let named = reply.contains(&format!("SIG{signal}"));
        if !(reply.starts_with(start) && named && reply.ends_with(r#"","code":"model_died"}"#)) {
            client.fail(&format!("expected model_died with SIG{signal}"));
        }
    }
}

#[test]
fn a_model_process_killed_while_idle_comes_back_when_it_is_needed() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let child = bridge.model_process();
    process::signal(child, "KILL");
    wait_until("the dead process is reaped", || {
        process::children(bridge.pid()).is_empty() && process::zombies(bridge.pid()).is_empty()
    });
    let mut client = bridge.connect();
    let told = format!("Model loaded: {}", model.display());
    client.exchange("STATUS", &ok(&told));
    assert_eq!(process::children(bridge.pid()), [0; 0]);
    client.exchange("INFER w", &completed("xyz"));
    assert_ne!(bridge.model_process(), child);
}

#[test]
fn a_model_file_cut_while_it_is_loaded_costs_only_the_model() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    client.exchange("INFER w", &completed("xyz"));
    // The pages are gone from under the mapping: the next look at a weight is a SIGBUS.
    File::options()
        .write(true)
        .open(&model)
        .and_then(|f| f.set_len(0))
        .expect("a cut");
    client.ask("INFER q");
    let reply = client.receive();
    if !(reply.contains("SIGBUS") && reply.ends_with(r#"","code":"model_died"}"#)) {
        client.fail("expected model_died with SIGBUS");
    }
    client.exchange("PING", &ok("pong"));
    // What is left of the file is no model, so it cannot come back.
    let reason = "Failed to load model: {}: not a GGUF file: it is empty";
    let told = reason.replace("{}", &model.display().to_string());
    client.exchange("INFER q", &failure("load_failed", &told));
    client.exchange("STATUS", &ok("No model loaded"));
}

#[test]
fn a_bridge_killed_while_generating_leaves_nothing_running() {
    let home = Directory::new();
    let (mut bridge, child, mut client) = generating(&home);
    process::signal(bridge.pid(), "KILL");
    client.expect_end();
    bridge.wait();
    process::wait_for_end(child);
    // What it left behind does not keep the next one from starting.
    let next = Bridge::start(&home, &[]);
    next.connect().exchange("PING", &ok("pong"));
}

#[test]
fn a_bridge_killed_during_a_prompt_leaves_nothing_running() {
    let home = Directory::new();
    let (mut bridge, child, _client) = evaluating(&home);
    process::signal(bridge.pid(), "KILL");
    bridge.wait();
    process::wait_for_end(child);
}

#[test]
fn a_bridge_killed_while_idle_leaves_nothing_running() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let mut bridge = Bridge::with_model(&home, &model, &[]);
    let child = bridge.model_process();
    process::signal(bridge.pid(), "KILL");
    bridge.wait();
    process::wait_for_end(child);
}

#[test]
fn a_bridge_killed_during_a_load_leaves_nothing_running() {
    let home = Directory::new();
    let slow = Tiny::slow_to_load().write(home.join("slow.gguf"));
    let mut bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.ask(&load_line(&slow));
    let loading = bridge.model_process();
    process::wait_for_work(loading, UNDER_WAY);
    process::signal(bridge.pid(), "KILL");
    bridge.wait();
    process::wait_for_end(loading);
}

#[test]
fn signals_stop_an_idle_bridge() {
    for signal in STOP_SIGNALS {
        let home = Directory::new();
        let model = Tiny::alphabet().write(home.join("tiny.gguf"));
        let mut bridge = Bridge::with_model(&home, &model, &[]);
        let child = bridge.model_process();
        process::signal(bridge.pid(), signal);
        bridge.expect_stop(&[child]);
    }
}

#[test]
fn signals_stop_a_bridge_with_an_idle_client() {
    for signal in STOP_SIGNALS {
        let home = Directory::new();
        let mut bridge = Bridge::start(&home, &[]);
        let mut client = bridge.connect();
        client.exchange("PING", &ok("pong"));
        client.send("PIN");
        process::signal(bridge.pid(), signal);
        bridge.expect_stop(&[]);
        client.expect_end();
    }
}

#[test]
fn signals_stop_a_bridge_that_generates() {
    for signal in STOP_SIGNALS {
        let home = Directory::new();
        let (mut bridge, child, mut client) = generating(&home);
        process::signal(bridge.pid(), signal);
        bridge.expect_stop(&[child]);
        expect_error_or_end(&mut client);
    }
}

#[test]
fn signals_stop_a_bridge_that_evaluates_a_prompt() {
    let home = Directory::new();
    let (mut bridge, child, mut client) = evaluating(&home);
    process::signal(bridge.pid(), "TERM");
    bridge.expect_stop(&[child]);
    expect_error_or_end(&mut client);
}

/// A bridge that has a request for a model process which has been stopped, and its client.
fn sending_in_vain(home: &Directory) -> (Bridge, u32, Client) {
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(home, &model, &["--stall-timeout", "2"]);
    let child = bridge.model_process();
    process::signal(child, "STOP");
    let mut client = bridge.connect();
    // More than a socket holds, so that the bridge cannot hand it over. It has the request three
    // times over, as bytes, as text and as a message, once it is about to try.
    let size = 3 << 20;
    let before = process::peak_memory(bridge.pid());
    client.ask(&format!("INFER {}", "a".repeat(size)));
    wait_until("the bridge waits for its model process", || {
        let taken = process::peak_memory(bridge.pid()) - before;
        taken > 5 * size as u64 / 2 && process::sleeps(bridge.pid())
    });
    (bridge, child, client)
}

#[test]
fn a_model_process_that_takes_nothing_is_ended_and_told_to_the_client() {
    let home = Directory::new();
    let (_bridge, child, mut client) = sending_in_vain(&home);
    client.expect(&failure(
        "timeout",
        "The model process was unresponsive for 2 s",
    ));
    process::wait_for_end(child);
    client.exchange("INFER w", &completed("xyz"));
}

#[test]
fn signals_stop_a_bridge_whose_model_process_takes_nothing() {
    let home = Directory::new();
    let (mut bridge, child, mut client) = sending_in_vain(&home);
    process::signal(bridge.pid(), "TERM");
    bridge.expect_stop(&[child]);
    expect_error_or_end(&mut client);
}

#[test]
fn signals_stop_a_bridge_that_loads() {
    for signal in STOP_SIGNALS {
        let home = Directory::new();
        let slow = Tiny::slow_to_load().write(home.join("slow.gguf"));
        let mut bridge = Bridge::start(&home, &[]);
        let mut client = bridge.connect();
        client.ask(&load_line(&slow));
        let loading = bridge.model_process();
        process::wait_for_work(loading, UNDER_WAY);
        process::signal(bridge.pid(), signal);
        bridge.expect_stop(&[loading]);
        expect_error_or_end(&mut client);
    }
}

#[test]
fn signals_stop_a_bridge_that_loads_before_it_serves() {
    let home = Directory::new();
    let slow = Tiny::slow_to_load().write(home.join("slow.gguf"));
    let model = slow.to_str().expect("UTF-8");
    let mut bridge = Bridge::spawn(&mut command(&home, &["--model", model]), home.socket());
    let loading = bridge.model_process();
    process::wait_for_work(loading, UNDER_WAY);
    process::signal(bridge.pid(), "TERM");
    bridge.expect_stop(&[loading]);
}

#[test]
fn signals_stop_a_bridge_whose_client_never_reads() {
    let home = Directory::new();
    let mut bridge = Bridge::start(&home, &[]);
    let mut deaf = bridge.connect();
    deaf.push(
        "PING\n".repeat(400_000).as_bytes(),
        Duration::from_millis(500),
    );
    process::signal(bridge.pid(), "TERM");
    bridge.expect_stop(&[]);
}

#[test]
fn quit_ends_the_model_process_as_well() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let mut bridge = Bridge::with_model(&home, &model, &[]);
    let child = bridge.model_process();
    bridge.connect().exchange("QUIT", &ok("Goodbye"));
    bridge.expect_stop(&[child]);
}

/// Whoever waits for an answer while the bridge stops gets an error or the end, but no answer.
fn expect_error_or_end(client: &mut Client) {
    if let Some(line) = client.receive_or_end() {
        if !line.starts_with(r#"{"status":"error""#) {
            client.fail("expected an error or the end");
        }
        client.expect_end();
    }
}

#[test]
fn an_idle_bridge_uses_no_processor_time_with_a_model_loaded() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let mut start = command(
        &home,
        &["--temp", "0", "--threads", "2", "--threads-batch", "2"],
    );
    let bridge = Bridge::start_command(&mut start, home.socket());
    let mut client = bridge.connect();
    client.load(&model);
    client.exchange("INFER w", &completed("xyz"));
    let child = bridge.model_process();
    let used = || process::ticks(bridge.pid()) + process::ticks(child);
    // OpenMP's threads spin for a moment after their last work; what comes later is the bridge's.
    let mut before = used();
    wait_within(
        Duration::from_secs(20),
        "a second goes by without processor time",
        || {
            client.expect_silence(Duration::from_secs(1));
            let now = used();
            let idle = now <= before + 1;
            before = now;
            idle
        },
    );
    client.expect_silence(Duration::from_secs(2));
    let more = used() - before;
    assert!(more <= 1, "{more} ticks in two seconds of waiting");
}

#[test]
fn the_bridge_starts_no_process_until_a_model_is_loaded() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    bridge.connect().exchange("PING", &ok("pong"));
    assert_eq!(process::children(bridge.pid()), [0; 0]);
}

#[test]
fn the_model_process_is_told_not_to_start_a_debugger() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let path = format!("/proc/{}/environ", bridge.model_process());
    let environment = std::fs::read(path).expect("the environment can be read");
    let set = environment
        .split(|&byte| byte == 0)
        .any(|word| word == b"GGML_NO_BACKTRACE=1");
    assert!(set, "{}", String::from_utf8_lossy(&environment));
}

/// A command that starts a copy of the program in `home`, by a path that is relative to it, where
/// `/proc` is not mounted; `None`, said aloud, where that cannot be had.
fn without_proc(home: &Directory) -> Option<Command> {
    let script = "mount -t tmpfs none /proc && test ! -e /proc/self && exec \"$@\"";
    let within = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                script,
                "sh",
            ])
            .args(command);
        unshare
    };
    if !within(&["true"])
        .output()
        .is_ok_and(|done| done.status.success())
    {
        skip("there may be no mount namespace without /proc");
        return None;
    }
    fs::copy(program(), home.join("bridge")).expect("a program can be copied");
    let model = "llama-cpp-bridge-model";
    fs::copy(program().with_file_name(model), home.join(model)).expect("so can the other");
    let mut start = within(&[
        "./bridge",
        "--threads",
        "1",
        "--temp",
        "0",
        "--socket",
        "socket",
    ]);
    start.current_dir(home.path());
    Some(start)
}

#[test]
fn a_bridge_needs_no_proc() {
    let home = Directory::new();
    let Some(mut start) = without_proc(&home) else {
        return;
    };
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let mut bridge = Bridge::start_command_as(&mut start, home.socket(), "socket");
    let mut client = bridge.connect();
    client.load(&model);
    client.exchange("INFER w", &completed("xyz"));
    client.exchange("QUIT", &ok("Goodbye"));
    bridge.expect_stop(&[]);
}

#[test]
fn without_proc_too_what_was_there_at_the_start_is_what_runs() {
    let home = Directory::new();
    let Some(mut start) = without_proc(&home) else {
        return;
    };
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let bridge = Bridge::start_command_as(&mut start, home.socket(), "socket");
    for name in ["bridge", "llama-cpp-bridge-model"] {
        fs::copy("/bin/true", home.join("other")).expect("a program can be copied");
        fs::rename(home.join("other"), home.join(name)).expect("a rename");
    }
    let mut client = bridge.connect();
    client.load(&model);
    client.exchange("INFER w", &completed("xyz"));
}
