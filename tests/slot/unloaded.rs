//! A model that comes back: a slot that has a model but no process.

use std::fs;

use crate::harness::{
    Bridge, Client, Directory, Tiny, completed, failure, ok, process, wait_until,
};

/// A bridge whose model rests, because its process was killed, and a client of it.
fn resting(home: &Directory) -> (Bridge, Client) {
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(home, &model, &[]);
    process::signal(bridge.model_process(), "KILL");
    wait_until("the dead process is reaped", || {
        process::children(bridge.pid()).is_empty() && process::zombies(bridge.pid()).is_empty()
    });
    let client = bridge.connect();
    (bridge, client)
}

fn told(home: &Directory) -> String {
    format!("Model loaded: {}", home.join("tiny.gguf").display())
}

#[test]
fn every_request_for_the_model_wakes_it() {
    for (request, reply) in [
        ("INFER w", completed("xyz")),
        (
            "TOKENIZE ab",
            r#"{"status":"ok","message":"Tokenization completed","tokens":[100,101]}"#.to_string(),
        ),
        (
            "DETOKENIZE 100",
            r#"{"status":"ok","message":"Detokenization completed","data":"a"}"#.to_string(),
        ),
    ] {
        let home = Directory::new();
        let (bridge, mut client) = resting(&home);
        client.exchange(request, &reply);
        assert_eq!(process::children(bridge.pid()).len(), 1, "{request}");
    }
}

#[test]
fn what_needs_no_model_does_not_wake_it() {
    let home = Directory::new();
    let (bridge, mut client) = resting(&home);
    client.exchange("PING", &ok("pong"));
    client.exchange("STATUS", &ok(&told(&home)));
    client.ask("HELP");
    client.receive();
    client.ask("INFO");
    let info = client.receive();
    assert!(info.contains(r#""message":"Model loaded""#), "{info}");
    assert!(info.contains("tiny.gguf"), "{info}");
    assert!(info.contains(r#","loaded":true,"#), "{info}");
    client.ask("METRICS");
    client.receive();
    // A request that is refused before it is given to the model does not wake it either.
    client.ask("GENERATE {}");
    client.receive();
    assert_eq!(process::children(bridge.pid()), [0; 0]);
}

#[test]
fn a_load_of_the_same_file_wakes_it() {
    let home = Directory::new();
    let (bridge, mut client) = resting(&home);
    client.load(&home.join("tiny.gguf"));
    assert_eq!(process::children(bridge.pid()).len(), 1);
    client.exchange("INFER w", &completed("xyz"));
}

#[test]
fn free_takes_it_away() {
    let home = Directory::new();
    let (_bridge, mut client) = resting(&home);
    client.exchange("FREE", &ok("Resources freed"));
    client.exchange("STATUS", &ok("No model loaded"));
    client.exchange("INFER w", &failure("no_model", "No model loaded"));
}

#[test]
fn another_model_takes_its_place() {
    let home = Directory::new();
    let (_bridge, mut client) = resting(&home);
    let other = Tiny::mute().write(home.join("other.gguf"));
    client.load(&other);
    client.exchange("INFER w", &completed(""));
    client.exchange("STATUS", &ok(&format!("Model loaded: {}", other.display())));
}

#[test]
fn a_load_of_another_file_that_fails_leaves_it_resting() {
    let home = Directory::new();
    let (_bridge, mut client) = resting(&home);
    client.ask("LOAD /nonexistent");
    client.expect_error("load_failed");
    client.exchange("STATUS", &ok(&told(&home)));
    client.exchange("INFER w", &completed("xyz"));
}

#[test]
fn a_file_that_has_gone_is_told_to_the_first_that_needs_it_and_the_slot_is_empty() {
    let home = Directory::new();
    let (_bridge, mut client) = resting(&home);
    let model = home.join("tiny.gguf");
    fs::remove_file(&model).expect("it is there");
    client.send("STATUS\nINFER w\nINFER w\nSTATUS\n");
    client.expect(&ok(&told(&home)));
    let reason = format!("Failed to load model: {}: no such file", model.display());
    client.expect(&failure("load_failed", &reason));
    client.expect(&failure("no_model", "No model loaded"));
    client.expect(&ok("No model loaded"));
}

#[test]
fn another_file_in_its_place_is_loaded_and_whoever_runs_the_bridge_is_told() {
    let home = Directory::new();
    let (bridge, mut client) = resting(&home);
    let model = home.join("tiny.gguf");
    client.exchange("INFER w", &completed("xyz"));
    process::signal(bridge.model_process(), "KILL");
    let said = format!(
        "{}: is not the file that was loaded before",
        model.display()
    );
    assert!(!bridge.errors().contains(&said));
    let other = Tiny::mute().chain("wv").write(home.join("other.gguf"));
    fs::rename(other, &model).expect("it can be renamed");
    client.exchange("INFER w", &completed("v"));
    wait_until("it is logged", || bridge.errors().contains(&said));
}

#[test]
fn a_file_that_was_damaged_meanwhile_is_told_and_the_slot_is_empty() {
    let home = Directory::new();
    let (_bridge, mut client) = resting(&home);
    fs::write(home.join("tiny.gguf"), "GGUF and nothing else").expect("it can be written");
    client.ask("INFER w");
    client.expect_error("load_failed");
    client.exchange("STATUS", &ok("No model loaded"));
}

#[test]
fn a_load_that_cannot_bring_it_back_empties_the_slot() {
    let home = Directory::new();
    let (_bridge, mut client) = resting(&home);
    let model = home.join("tiny.gguf");
    fs::remove_file(&model).expect("it is there");
    client.ask(&format!("LOAD {}", model.display()));
    client.expect_error("load_failed");
    client.exchange("STATUS", &ok("No model loaded"));
}

#[test]
fn a_client_that_leaves_while_the_model_wakes_does_not_lose_it() {
    let home = Directory::new();
    let (bridge, mut client) = resting(&home);
    client.ask("INFER w");
    client.vanish();
    let mut next = bridge.connect();
    next.exchange("STATUS", &ok(&told(&home)));
    next.exchange("INFER w", &completed("xyz"));
}

#[test]
fn a_model_whose_process_is_killed_again_and_again_comes_back_each_time() {
    let home = Directory::new();
    let (bridge, mut client) = resting(&home);
    for _ in 0..5 {
        client.exchange("INFER w", &completed("xyz"));
        process::signal(bridge.model_process(), "KILL");
        wait_until("the dead process is reaped", || {
            process::children(bridge.pid()).is_empty() && process::zombies(bridge.pid()).is_empty()
        });
    }
    client.exchange("STATUS", &ok(&told(&home)));
}
