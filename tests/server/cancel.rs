//! A client that goes away takes what it asked for with it, and the next one is served.

use crate::harness::{Bridge, Directory, Tiny, completed, ok, process};

/// Ticks of work after which a request is taken to be well under way.
const UNDER_WAY: u64 = 20;

#[test]
fn a_client_that_leaves_stops_its_generation() {
    let home = Directory::new();
    let model = Tiny::endless().write(home.join("endless.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["-n", "-1", "-c", "0"]);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    client.ask("INFER a");
    process::wait_for_work(child, UNDER_WAY);
    client.vanish();
    let mut next = bridge.connect();
    next.exchange("PING", &ok("pong"));
    // Only a generation that ended lets this one begin and end. This prompt has no successor.
    next.exchange("INFER !", &completed(""));
    assert_eq!(
        bridge.model_process(),
        child,
        "the model process was replaced"
    );
    expect_rest(&bridge);
}

/// A client leaves in the middle of this request, on a model that would work on it for minutes, and
/// the next one is answered. Whether the model process gives it up or is replaced depends on which
/// is quicker.
fn expect_answer_behind(request: &str) {
    let home = Directory::new();
    let model = Tiny::slow().write(home.join("slow.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["-n", "2"]);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    client.ask(request);
    process::wait_for_work(child, UNDER_WAY);
    client.vanish();
    let mut next = bridge.connect();
    next.exchange("PING", &ok("pong"));
    next.exchange("INFER a", &completed("bc"));
    expect_rest(&bridge);
}

#[test]
fn a_client_that_leaves_stops_the_evaluation_of_its_prompt() {
    expect_answer_behind(&format!("INFER {}", "a".repeat(3000)));
}

#[test]
fn a_client_that_leaves_stops_the_embedding_of_its_text() {
    expect_answer_behind(&format!("EMBED {}", "a".repeat(2000)));
}

#[test]
fn a_text_that_is_embedded_after_one_was_given_up_has_its_own_embedding() {
    let home = Directory::new();
    let model = Tiny::heavy().write(home.join("heavy.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let child = bridge.model_process();
    let texts = ["a", "b", "c"];
    let mut client = bridge.connect();
    let embed = |client: &mut crate::harness::Client| {
        for text in texts {
            client.ask(&format!("EMBED {text}"));
        }
        texts.map(|_| client.receive())
    };
    let before = embed(&mut client);
    client.send(format!("EMBED {}\n", "a".repeat(1000)).repeat(2));
    process::wait_for_work(child, UNDER_WAY);
    client.vanish();
    // With nobody waiting, the process gives it up instead of being replaced.
    expect_rest(&bridge);
    assert_eq!(embed(&mut bridge.connect()), before);
}

#[test]
fn requests_behind_the_one_of_a_client_that_left_are_not_carried_out() {
    let home = Directory::new();
    let model = Tiny::endless().write(home.join("endless.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["-n", "-1", "-c", "0"]);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    client.send("INFER a\nFREE\nQUIT\n");
    process::wait_for_work(child, UNDER_WAY);
    client.vanish();
    let told = ok(&format!("Model loaded: {}", model.display()));
    bridge.connect().exchange("STATUS", &told);
}

#[test]
fn half_closing_does_not_cancel() {
    let home = Directory::new();
    let model = Tiny::heavy().write(home.join("heavy.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["-n", "2"]);
    let child = bridge.model_process();
    let mut client = bridge.connect();
    client.ask(&format!("INFER {}", "a".repeat(2000)));
    client.half_close();
    process::wait_for_work(child, 1);
    client.expect(&completed("bc"));
    client.expect_end();
}

#[test]
fn clients_that_leave_one_after_the_other_leave_a_working_model() {
    let home = Directory::new();
    let model = Tiny::endless().write(home.join("endless.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["-n", "-1", "-c", "0"]);
    let child = bridge.model_process();
    for number in 0..20 {
        let mut client = bridge.connect();
        client.ask(&format!("INFER {}a", "!".repeat(number)));
        if number % 2 == 0 {
            process::wait_for_work(child, 1);
        }
        client.vanish();
    }
    bridge.connect().exchange("INFER !", &completed(""));
    assert_eq!(
        bridge.model_process(),
        child,
        "the model process was replaced"
    );
}

/// Expects that neither process has anything left to do.
fn expect_rest(bridge: &Bridge) {
    bridge.wait_until_idle();
    let child = bridge.model_process();
    crate::harness::wait_until("the model process rests", || process::sleeps(child));
}
