//! Time limits: of a request, of a silent model process, of a load, of a client's turn.

use std::time::{Duration, Instant};

use crate::harness::{
    Bridge, Client, Directory, Tiny, completed, failure, ok, process, wait_until,
};

/// Ticks of work after which a request is taken to be well under way.
const UNDER_WAY: u64 = 10;

fn bridge_with(home: &Directory, tiny: Tiny, options: &[&str]) -> Bridge {
    let model = tiny.write(home.join("tiny.gguf"));
    Bridge::with_model(home, &model, options)
}

#[test]
fn a_request_that_takes_too_long_is_given_up_and_the_model_stays() {
    let home = Directory::new();
    let options = ["-n", "-1", "-c", "0", "--request-timeout", "1"];
    let bridge = bridge_with(&home, Tiny::endless(), &options);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    client.exchange("INFER a", &failure("timeout", "Not answered within 1 s"));
    client.exchange("INFER !", &completed(""));
    assert_eq!(bridge.model_process(), child);
}

#[test]
fn a_stream_that_takes_too_long_ends_with_the_error() {
    let home = Directory::new();
    let options = ["-n", "-1", "-c", "0", "--request-timeout", "1"];
    let bridge = bridge_with(&home, Tiny::endless(), &options);
    let mut client = bridge.connect();
    client.ask("STREAM a");
    let mut line = client.receive();
    while line.starts_with(r#"{"status":"partial""#) {
        line = client.receive();
    }
    assert_eq!(line, failure("timeout", "Not answered within 1 s"));
    client.exchange("PING", &ok("pong"));
}

#[test]
fn a_request_whose_process_does_not_give_it_up_costs_the_process() {
    let home = Directory::new();
    let bridge = bridge_with(&home, Tiny::alphabet(), &["--request-timeout", "1"]);
    let child = bridge.model_process();
    process::signal(child, "STOP");
    let mut client = bridge.connect();
    client.exchange("INFER w", &failure("timeout", "Not answered within 1 s"));
    process::wait_for_end(child);
    client.exchange("INFER w", &completed("xyz"));
}

#[test]
fn a_request_for_a_model_that_takes_too_long_to_load_is_given_up() {
    let home = Directory::new();
    let slow = Tiny::slow_to_load().write(home.join("slow.gguf"));
    let bridge = bridge_with(&home, Tiny::alphabet(), &["--request-timeout", "1"]);
    let mut client = bridge.connect();
    client.exchange(
        &format!("LOAD {}", slow.display()),
        &failure("timeout", "Not answered within 1 s"),
    );
    client.exchange("INFER w", &completed("xyz"));
    wait_until("the process that loaded is gone", || {
        process::children(bridge.pid()).len() == 1
    });
}

#[test]
fn requests_that_wait_for_the_same_load_are_all_given_up_when_their_time_is_over() {
    let home = Directory::new();
    let bridge = bridge_with(&home, Tiny::alphabet(), &["--request-timeout", "2"]);
    let child = bridge.model_process();
    process::signal(child, "KILL");
    process::wait_for_end(child);
    Tiny::slow_to_load().write(home.join("tiny.gguf"));
    let mut client = bridge.connect();
    client.send("INFER a\n".repeat(8));
    let late = failure("timeout", "Not answered within 2 s");
    client.expect(&late);
    let first = Instant::now();
    for _ in 1..8 {
        client.expect(&late);
    }
    let between = first.elapsed();
    assert!(between < Duration::from_secs(2), "{between:?} apart");
}

#[test]
fn a_load_that_takes_too_long_is_ended_and_the_model_before_stays() {
    let home = Directory::new();
    let slow = Tiny::slow_to_load().write(home.join("slow.gguf"));
    let bridge = bridge_with(&home, Tiny::alphabet(), &["--load-timeout", "1"]);
    let mut client = bridge.connect();
    let reason = format!(
        "Failed to load model: {}: not loaded within 1 s",
        slow.display()
    );
    client.exchange(
        &format!("LOAD {}", slow.display()),
        &failure("timeout", &reason),
    );
    client.exchange("INFER w", &completed("xyz"));
    wait_until("the process that loaded is gone", || {
        process::children(bridge.pid()).len() == 1
    });
}

#[test]
fn a_model_process_that_stops_at_work_is_ended_and_the_request_told() {
    let home = Directory::new();
    let options = ["-n", "-1", "-c", "0", "--stall-timeout", "2"];
    let bridge = bridge_with(&home, Tiny::endless(), &options);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    client.ask("INFER a");
    process::wait_for_work(child, UNDER_WAY);
    process::signal(child, "STOP");
    client.expect(&failure(
        "timeout",
        "The model process was unresponsive for 2 s",
    ));
    process::wait_for_end(child);
    client.exchange("INFER !", &completed(""));
}

#[test]
fn a_long_answer_that_is_not_streamed_is_no_stall() {
    let home = Directory::new();
    let options = ["-n", "-1", "-c", "0", "--stall-timeout", "2"];
    let bridge = bridge_with(&home, Tiny::endless(), &options);
    let mut client = bridge.connect();
    client.ask("INFER a");
    // The passing of time is what is tested.
    client.expect_silence(Duration::from_secs(5));
}

#[test]
fn an_idle_model_process_may_be_silent() {
    let home = Directory::new();
    let bridge = bridge_with(&home, Tiny::alphabet(), &["--stall-timeout", "1"]);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    client.exchange("INFER w", &completed("xyz"));
    client.expect_silence(Duration::from_millis(1500));
    client.exchange("INFER w", &completed("xyz"));
    assert_eq!(bridge.model_process(), child);
}

#[test]
fn a_client_that_leaves_a_stopped_model_process_behind_costs_the_next_one_two_seconds() {
    let home = Directory::new();
    let bridge = bridge_with(&home, Tiny::endless(), &["-n", "-1", "-c", "0"]);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    client.ask("INFER a");
    process::wait_for_work(child, UNDER_WAY);
    process::signal(child, "STOP");
    client.vanish();
    let mut next = bridge.connect();
    next.exchange("PING", &ok("pong"));
    next.exchange("INFER !", &completed(""));
    process::wait_for_end(child);
}

/// A bridge that ends the turn of a client after a second, a client that has had that time, and
/// one that waits.
fn turns(home: &Directory) -> (Bridge, Client, Client) {
    let bridge = bridge_with(home, Tiny::alphabet(), &["--turn-limit", "1"]);
    let mut first = bridge.connect();
    first.exchange("PING", &ok("pong"));
    first.expect_silence(Duration::from_millis(1100));
    first.exchange("PING", &ok("pong"));
    let next = bridge.connect();
    (bridge, first, next)
}

#[test]
fn a_client_that_is_never_idle_gives_way_when_its_turn_is_over() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &["--turn-limit", "1"]);
    let mut busy = bridge.connect();
    busy.exchange("PING", &ok("pong"));
    let mut next = bridge.connect();
    next.ask("PING");
    let mut pings = 0_u64;
    loop {
        busy.try_ask("PING");
        match busy.receive_or_end() {
            Some(line) => assert_eq!(line, ok("pong")),
            None => break,
        }
        pings += 1;
    }
    assert!(pings > 10, "{pings}");
    next.expect(&ok("pong"));
}

#[test]
fn a_turn_ends_at_once_when_somebody_comes_later() {
    let home = Directory::new();
    let (_bridge, mut first, mut next) = turns(&home);
    first.expect_end();
    next.exchange("INFER w", &completed("xyz"));
}

#[test]
fn a_turn_ends_behind_the_answer_that_is_under_way() {
    let home = Directory::new();
    let model = Tiny::heavy().write(home.join("heavy.gguf"));
    let options = ["-n", "2", "--turn-limit", "1"];
    let bridge = Bridge::with_model(&home, &model, &options);
    let mut first = bridge.connect();
    first.exchange("PING", &ok("pong"));
    first.expect_silence(Duration::from_millis(1100));
    first.ask(&format!("INFER {}", "a".repeat(2000)));
    process::wait_for_work(bridge.model_process(), UNDER_WAY);
    let mut next = bridge.connect();
    next.ask("PING");
    first.expect(&completed("bc"));
    first.expect_end();
    next.expect(&ok("pong"));
}

#[test]
fn a_turn_has_no_end_while_nobody_waits() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &["--turn-limit", "1"]);
    let mut client = bridge.connect();
    client.expect_silence(Duration::from_millis(1500));
    client.exchange("PING", &ok("pong"));
    client.expect_nothing_yet();
}

#[test]
fn a_reader_that_is_too_slow_gives_way_and_its_generation_ends() {
    let home = Directory::new();
    let options = ["-n", "-1", "-c", "0", "--idle-timeout", "1"];
    let bridge = bridge_with(&home, Tiny::endless(), &options);
    let child = bridge.model_process();
    let mut deaf = bridge.connect();
    // Streams until the socket's buffers are full.
    deaf.ask("STREAM a");
    process::wait_for_work(child, UNDER_WAY);
    deaf.push(
        "PING\n".repeat(400_000).as_bytes(),
        Duration::from_millis(500),
    );
    let mut next = bridge.connect();
    next.exchange("PING", &ok("pong"));
    next.exchange("INFER !", &completed(""));
    assert_eq!(bridge.model_process(), child);
    wait_until("the model process rests", || process::sleeps(child));
}
