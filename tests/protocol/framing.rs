//! How requests are framed: lines, netstrings, their limits, and what is no request.

use crate::harness::{Bridge, Client, Directory, Tiny, completed, failure, ok, process};

fn pong() -> String {
    ok("pong")
}

fn too_long(limit: usize) -> String {
    failure("too_long", &format!("Request longer than {limit} bytes"))
}

/// A bridge whose model says the next three letters.
fn three_letters(home: &Directory) -> Bridge {
    let model = Tiny::carousel().write(home.join("tiny.gguf"));
    Bridge::with_model(home, &model, &["--max-tokens", "3"])
}

#[test]
fn one_carriage_return_before_the_newline_is_dropped() {
    let home = Directory::new();
    let bridge = three_letters(&home);
    let mut client = bridge.connect();
    client.send("PING\r\n");
    client.expect(&pong());
    client.send("INFER a\r\n");
    client.expect(&completed("bcd"));
    client.send("PING\r\r\n");
    client.expect(&failure("unknown_command", "Unknown command: PING\\r"));
}

#[test]
fn blanks_between_verb_and_argument_are_spaces_and_tabs() {
    let home = Directory::new();
    let bridge = three_letters(&home);
    let mut client = bridge.connect();
    client.exchange("INFER \t  \ta", &completed("bcd"));
    client.exchange("INFER\ta", &completed("bcd"));
    client.exchange(
        "INFER\u{a0}a",
        &failure("unknown_command", "Unknown command: INFER\u{a0}a"),
    );
}

#[test]
fn blanks_at_the_end_belong_to_the_argument() {
    let home = Directory::new();
    let model = Tiny::carousel().chain(" !").write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    client.exchange("INFER a ", &completed("!"));
}

#[test]
fn empty_lines_are_ignored() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.send("\n\r\n\n\nPING\n\n\r\n4:PING,\n\nPING\n");
    for _ in 0..3 {
        client.expect(&pong());
    }
    client.expect_nothing_yet();
}

#[test]
fn requests_sent_together_are_answered_in_order() {
    let home = Directory::new();
    let bridge = three_letters(&home);
    let mut client = bridge.connect();
    client.send("INFER a\nPING\n7:INFER b,4:PING,INFER c\n");
    client.expect(&completed("bcd"));
    client.expect(&pong());
    client.expect(&completed("cde"));
    client.expect(&pong());
    client.expect(&completed("def"));
}

#[test]
fn a_request_may_come_in_pieces() {
    let home = Directory::new();
    let bridge = three_letters(&home);
    let mut client = bridge.connect();
    for piece in ["INF", "ER", " ", "a", "\nPING\n7", ":INFER", " ", "b", ","] {
        client.send(piece);
        // So that the pieces arrive one by one: the other side has read this one.
        bridge.wait_until_idle();
    }
    client.expect(&completed("bcd"));
    client.expect(&pong());
    client.expect(&completed("cde"));
}

#[test]
fn a_last_line_without_newline_is_answered() {
    let home = Directory::new();
    let bridge = three_letters(&home);
    let mut client = bridge.connect();
    client.send("PING\nINFER a");
    client.half_close();
    client.expect(&pong());
    client.expect(&completed("bcd"));
    client.expect_end();
}

#[test]
fn a_client_that_sends_no_more_gets_all_its_answers() {
    let home = Directory::new();
    let bridge = three_letters(&home);
    let mut client = bridge.connect();
    client.send("INFER a\nINFER b\n7:INFER c,");
    client.half_close();
    client.expect(&completed("bcd"));
    client.expect(&completed("cde"));
    client.expect(&completed("def"));
    client.expect_end();
}

#[test]
fn a_client_that_sends_nothing_at_all_is_let_go() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.half_close();
    client.expect_end();
}

#[test]
fn a_netstring_holds_newlines() {
    let home = Directory::new();
    let model = Tiny::carousel().chain("\n!").write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    let mut client = bridge.connect();
    client.ask_netstring("INFER two\r\nlines\n");
    client.expect(&completed("!"));
    client.ask_netstring("PING\n");
    client.expect(&failure("unknown_command", "Unknown command: PING\\n"));
}

#[test]
fn in_a_netstring_one_blank_separates_verb_and_argument() {
    let home = Directory::new();
    let bridge = three_letters(&home);
    let mut client = bridge.connect();
    let tokens = |list: &str| {
        format!(r#"{{"status":"ok","message":"Tokenization completed","tokens":[{list}]}}"#)
    };
    // A byte's token is three more than the byte, but for the space, whose token is 259.
    for (request, list) in [
        ("TOKENIZE a", "100"),
        ("TOKENIZE\ta", "100"),
        ("TOKENIZE  a", "259,100"),
        ("TOKENIZE\t a", "259,100"),
        ("TOKENIZE \t\na ", "12,13,100,259"),
        ("TOKENIZE \na", "13,100"),
        ("TOKENIZE  ", "259"),
    ] {
        client.ask_netstring(request);
        client.expect(&tokens(list));
    }
    // A line skips them all.
    client.exchange("TOKENIZE  \ta", &tokens("100"));
    client.ask_netstring("INFER  a");
    client.expect(&completed("bcd"));
}

#[test]
fn only_a_blank_ends_the_verb_of_a_netstring() {
    let home = Directory::new();
    let bridge = three_letters(&home);
    let mut client = bridge.connect();
    for request in ["INFER", "INFER ", "INFER\t"] {
        client.ask_netstring(request);
        client.expect(&failure("bad_request", "No prompt provided"));
    }
    client.ask_netstring("INFER\na");
    client.expect(&failure("unknown_command", "Unknown command: INFER\\na"));
    client.ask_netstring(" INFER a");
    client.expect(&failure("unknown_command", "Unknown command: "));
    client.ask_netstring("PING ");
    client.expect(&pong());
    client.ask_netstring("PING  ");
    client.expect(&failure("bad_request", "PING takes no argument"));
    for blanks in [" ", " \n"] {
        client.ask_netstring(&format!("DETOKENIZE {blanks}"));
        client.expect(&failure("bad_request", "No tokens provided"));
    }
    client.ask_netstring("GENERATE  {\"prompt\":\"a\",\"max_tokens\":0}");
    assert_eq!(client.answer().prompt_tokens, 2);
}

#[test]
fn a_netstring_without_bytes_is_an_empty_request() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.send("0:,4:PING,");
    client.expect(&failure("bad_request", "Empty request"));
    client.expect(&pong());
}

#[test]
fn a_malformed_netstring_closes_the_connection() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    for sent in [
        "4PING,\n",
        "4:PING\n",
        "4:PINGS,",
        "04:PING,",
        "4 :PING,",
        "12345678901234:x,",
    ] {
        let mut client = bridge.connect();
        client.send("PING\n");
        client.send(sent);
        client.expect(&pong());
        expect_malformed(&mut client);
    }
    bridge.connect().exchange("PING", &pong());
}

#[test]
fn a_netstring_that_ends_early_is_malformed() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    for sent in ["4", "4:", "4:PIN", "4:PING"] {
        let mut client = bridge.connect();
        client.send(sent);
        client.half_close();
        expect_malformed(&mut client);
    }
}

fn expect_malformed(client: &mut Client) {
    let reply = client.receive();
    let start = r#"{"status":"error","message":"Malformed netstring: "#;
    let end = r#"; expected LEN:BYTES,","code":"bad_request"}"#;
    if !(reply.starts_with(start) && reply.ends_with(end)) {
        client.fail("expected the reply to a malformed netstring");
    }
    client.expect_end();
}

#[test]
fn a_line_may_be_as_long_as_the_limit_and_not_a_byte_longer() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &["--max-request", "2000"]);
    let mut client = bridge.connect();
    let reply = failure("no_model", "No model loaded");
    client.exchange(&line_of(2000), &reply);
    client.exchange(&(line_of(2000) + "\r"), &reply);
    client.exchange(&line_of(2001), &too_long(2000));
    client.exchange(&line_of(200_001), &too_long(2000));
    client.exchange("PING", &pong());
}

#[test]
fn a_netstring_may_be_as_long_as_the_limit_and_not_a_byte_longer() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &["--max-request", "2000"]);
    let mut client = bridge.connect();
    client.ask_netstring(&line_of(2000));
    client.expect(&failure("no_model", "No model loaded"));
    for length in [2001, 200_001] {
        client.ask_netstring(&line_of(length));
        client.expect(&too_long(2000));
    }
    client.ask_netstring("PING");
    client.expect(&pong());
}

#[test]
fn the_limit_is_four_mebibytes_unless_set() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.exchange(&line_of(4 << 20), &failure("no_model", "No model loaded"));
    client.exchange(&line_of((4 << 20) + 1), &too_long(4 << 20));
    client.exchange("PING", &pong());
}

/// A request of this many bytes, without its LF.
fn line_of(length: usize) -> String {
    let verb = "INFER ";
    format!("{verb}{}", "x".repeat(length - verb.len()))
}

#[test]
fn a_last_line_that_is_too_long_and_never_ends_gets_its_error() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &["--max-request", "2000"]);
    let mut client = bridge.connect();
    client.send(line_of(2001));
    client.half_close();
    client.expect(&too_long(2000));
    client.expect_end();
}

#[test]
fn what_is_too_long_is_not_stored() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &["--max-request", "1024"]);
    let mut client = bridge.connect();
    client.exchange("PING", &pong());
    let before = process::peak_memory(bridge.pid());
    client.exchange(&line_of(64 << 20), &too_long(1024));
    client.ask_netstring(&line_of(64 << 20));
    client.expect(&too_long(1024));
    client.exchange("PING", &pong());
    let grown = process::peak_memory(bridge.pid()) - before;
    assert!(grown < 8 << 20, "the bridge grew by {grown} bytes");
}

#[test]
fn bytes_that_are_not_utf8_are_an_error_and_the_connection_goes_on() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    let wrong = |byte: &str, offset: usize| {
        let message = format!("Request is not valid UTF-8: byte {byte} at offset {offset}");
        failure("bad_request", &message)
    };
    client.send(b"INFER a\xff\n");
    client.expect(&wrong("0xff", 7));
    client.send(b"\xc3(\n");
    client.expect(&wrong("0xc3", 0));
    client.send(b"10:INFER ab\xe2\x82,");
    client.expect(&wrong("0xe2", 8));
    // A surrogate and an overlong slash, which some decoders let pass.
    client.send(b"PING \xed\xa0\x80\n");
    client.expect(&wrong("0xed", 5));
    client.send(b"PING \xc0\xaf\n");
    client.expect(&wrong("0xc0", 5));
    client.exchange("PING", &pong());
}

#[test]
fn nul_bytes_are_bytes_like_others() {
    let home = Directory::new();
    let bridge = three_letters(&home);
    let mut client = bridge.connect();
    client.send(b"PI\0NG\n");
    client.expect(&failure("unknown_command", "Unknown command: PI\\u0000NG"));
    client.send(b"\0\n");
    client.expect(&failure("unknown_command", "Unknown command: \\u0000"));
    client.send(b"INFER x\0a\n");
    client.expect(&completed("bcd"));
    client.send(b"LOAD /tmp/a\0b\n");
    let reply = client.receive();
    let start = r#"{"status":"error","message":"Failed to load model: /tmp/a\u0000b: "#;
    if !(reply.starts_with(start) && reply.ends_with(r#","code":"load_failed"}"#)) {
        client.fail("expected a load_failed that shows the path");
    }
    client.exchange("INFER a", &completed("bcd"));
}

#[test]
fn a_web_browser_gets_an_error_for_each_of_its_lines() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.expect(&failure("unknown_command", "Unknown command: GET"));
    client.expect(&failure("unknown_command", "Unknown command: Host:"));
    client.exchange("PING", &pong());
}

#[test]
fn random_bytes_do_no_harm() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &["--max-request", "1024"]);
    let mut state: u64 = 42;
    for _ in 0..50 {
        let mut client = bridge.connect();
        let bytes: Vec<u8> = std::iter::repeat_with(|| random(&mut state))
            .take(4096)
            .collect();
        // The bridge may close the connection in the middle, at a malformed netstring.
        client.push(&bytes, crate::harness::LIMIT);
        client.vanish();
    }
    bridge.connect().exchange("PING", &pong());
}

/// The next byte of a linear congruential generator (Knuth's constants).
fn random(state: &mut u64) -> u8 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 56) as u8
}
