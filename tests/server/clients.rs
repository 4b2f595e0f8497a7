//! One client at a time, in order, and none that can hold up the others for good.

use std::thread;
use std::time::Duration;

use crate::harness::{Bridge, Client, Directory, Tiny, completed, ok, process};

fn pong() -> String {
    ok("pong")
}

#[test]
fn clients_are_served_one_at_a_time_in_the_order_of_connecting() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut waiting: Vec<Client> = (0..5).map(|_| bridge.connect()).collect();
    for client in waiting.iter_mut().rev() {
        client.ask("PING");
    }
    while !waiting.is_empty() {
        let mut first = waiting.remove(0);
        first.expect(&pong());
        for other in &mut waiting {
            other.expect_nothing_yet();
        }
        first.exchange("STATUS", &ok("No model loaded"));
        first.vanish();
    }
}

#[test]
fn three_hundred_clients_that_vanish_do_no_harm() {
    let home = Directory::new();
    let model = Tiny::carousel()
        .context(60_000)
        .write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["-n", "-1", "-c", "0"]);
    let child = bridge.model_process();
    for number in 0..300 {
        let mut client = bridge.connect();
        match number % 6 {
            0 => {}
            1 => client.send("PING\n"),
            2 => client.send("INFER a\n"),
            3 => client.send("INF"),
            4 => client.send("100:INFER"),
            _ => client.send("STATUS\nPING\nINFER abc\nPING\n"),
        }
        client.vanish();
    }
    let mut client = bridge.connect();
    client.exchange("PING", &pong());
    client.exchange("INFER !", &completed(""));
    assert_eq!(
        bridge.model_process(),
        child,
        "the model process was replaced"
    );
    assert_eq!(
        open_files(bridge.pid()),
        open_files_of_one_client(&bridge, client)
    );
}

/// How many files a process has open.
fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("the process runs")
        .count()
}

/// How many files the bridge has open while it serves a client that did nothing unusual.
fn open_files_of_one_client(bridge: &Bridge, before: Client) -> usize {
    before.vanish();
    let mut client = bridge.connect();
    client.exchange("PING", &pong());
    open_files(bridge.pid())
}

#[test]
fn an_idle_client_gives_way_to_one_that_waits() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &["--idle-timeout", "1"]);
    let mut idle = bridge.connect();
    idle.exchange("PING", &pong());
    let mut next = bridge.connect();
    next.exchange("PING", &pong());
    idle.expect_end();
}

#[test]
fn a_client_with_half_a_request_gives_way_as_well() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &["--idle-timeout", "1"]);
    let mut idle = bridge.connect();
    idle.send("PIN");
    bridge.connect().exchange("PING", &pong());
    idle.expect_end();
}

#[test]
fn an_idle_client_stays_while_nobody_waits() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &["--idle-timeout", "1"]);
    let mut idle = bridge.connect();
    idle.exchange("PING", &pong());
    // The passing of time is what is tested.
    idle.expect_silence(Duration::from_secs(2));
    idle.exchange("PING", &pong());
    idle.expect_nothing_yet();
}

#[test]
fn a_client_that_came_late_finds_an_idle_one_gone_at_once() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &["--idle-timeout", "1"]);
    let mut idle = bridge.connect();
    idle.exchange("PING", &pong());
    idle.expect_silence(Duration::from_millis(1200));
    bridge.connect().exchange("PING", &pong());
    idle.expect_end();
}

#[test]
fn a_client_whose_request_is_under_way_does_not_give_way() {
    let home = Directory::new();
    let model = Tiny::slow().write(home.join("slow.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["--idle-timeout", "1"]);
    let child = bridge.model_process();
    let mut busy = bridge.connect();
    busy.ask(&format!("INFER {}", "a".repeat(3000)));
    process::wait_for_work(child, 1);
    let mut next = bridge.connect();
    next.ask("PING");
    busy.expect_silence(Duration::from_secs(2));
    next.expect_nothing_yet();
    busy.vanish();
    next.expect(&pong());
}

#[test]
fn a_client_that_sends_a_byte_every_50_milliseconds_is_answered() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut slow = bridge.connect();
    let mut next = bridge.connect();
    next.ask("PING");
    for byte in b"INFER w\n9:INFER uvx," {
        // The sender's pace is what is tested.
        thread::sleep(Duration::from_millis(50));
        slow.send([*byte]);
    }
    slow.expect(&completed("xyz"));
    slow.expect(&completed("yz"));
    next.expect_nothing_yet();
    slow.vanish();
    next.expect(&pong());
}

#[test]
fn a_client_that_never_reads_is_dropped() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &["--idle-timeout", "1"]);
    let mut deaf = bridge.connect();
    let requests = "PING\n".repeat(400_000);
    let sent = deaf.push(requests.as_bytes(), Duration::from_secs(2));
    assert!(
        sent < requests.len(),
        "the bridge took all requests though no answer was read"
    );
    bridge.connect().exchange("PING", &pong());
}

#[test]
fn a_client_that_reads_late_gets_every_answer() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    let count = 20_000;
    thread::scope(|scope| {
        let mut sender = client.second_handle();
        scope.spawn(move || {
            use std::io::Write;
            sender
                .write_all("PING\n".repeat(count).as_bytes())
                .expect("all can be sent");
        });
        for _ in 0..count {
            client.expect(&pong());
        }
    });
}

#[test]
fn a_reply_behind_a_long_one_comes_however_quickly_that_is_read() {
    let home = Directory::new();
    // A token that is written with 500 letters, so that a long reply is made in a moment.
    let model = Tiny::alphabet().token(b'.', &[b'x'; 500]);
    let model = model.write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    // More than the socket and the bridge hold for a client together.
    let tokens = "260 ".repeat(1000);
    let text = "x".repeat(500_000);
    let message = "Detokenization completed";
    let reply = format!(r#"{{"status":"ok","message":"{message}","data":"{text}"}}"#);
    for _ in 0..500 {
        client.send(format!("DETOKENIZE {tokens}\nPING\n"));
        client.expect(&reply);
        client.expect(&pong());
    }
}

#[test]
fn the_next_client_is_served_after_one_that_broke_off() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    for sent in ["", "PING", "PING\n", "5:PIN", "9999:"] {
        let mut client = bridge.connect();
        client.send(sent);
        client.vanish();
        bridge.connect().exchange("PING", &pong());
    }
}
