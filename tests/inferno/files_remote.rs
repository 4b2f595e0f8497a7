//! Files of llambofs between two Infernos, and who may load and free.

use std::fs;

use super::emulator::Inferno;
use super::emulator::sources;
use super::files::{bridge_with, expect, start};
use super::module::{address, program};
use super::pool::{fifo, free_port};
use crate::harness::{Directory, Tiny, ok, process};

#[test]
fn another_inferno_may_ask_but_neither_load_nor_free() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    ask_from_another(&inferno, "", "-A", "-s");
}

#[test]
fn a_user_with_a_key_may_ask_but_neither_load_nor_free() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    // With -w, which is for the user who started llambofs; the key's user is another.
    let key = "auth/createsignerkey -b 256 -f /dis/lib/key visitor";
    ask_from_another(&inferno, key, "-k /dis/lib/key", "-s -w");
}

/// Asks from one Inferno what another one serves, over a connection of this kind.
fn ask_from_another(inferno: &Inferno, prepare: &str, kind: &str, options: &str) {
    let home = Directory::new();
    let bridge = bridge_with(&home, &Tiny::alphabet(), &[]);
    inferno.compile_with_module(&home, &sources().join("llambofs.b"));
    inferno.compile(&home, "-gw", &program("conversations.b"));
    fs::write(home.join("key"), "").expect("the file can be written");
    let port = free_port();
    let serve = format!(
        "{prepare}
         styxlisten {kind} 'tcp!127.0.0.1!{port}' {{/dis/lib/llambofs.dis {options} {}}}
         echo listening
         cat '#U*{}'",
        address(&bridge),
        fifo(&home).display()
    );
    let mut server = inferno.shell(&home, &serve);
    server.expect("listening");
    let algorithm = if kind == "-A" { "" } else { "-C rc4_256/sha1" };
    let ask = format!(
        "mount {kind} {algorithm} 'tcp!127.0.0.1!{port}' /chan
         cd /chan; id=`{{cat new}}; echo w >$id/ask; cat $id/ask
         echo free >ctl
         cat $id/context
         /dis/lib/conversations.dis /chan"
    );
    let refusal = "permission denied: only who started llambofs, with -w, may do that";
    expect(
        inferno.shell(&home, &ask),
        &[
            "xyz",
            &format!("echo: write error: {refusal}"),
            r#"[{"role":"user","content":"w"},{"role":"assistant","content":"xyz"}]"#,
            "20 of 20 right",
        ],
    );
    let loaded = format!("Model loaded: {}", home.join("model.gguf").display());
    bridge.connect().exchange("STATUS", &ok(&loaded));
}

#[test]
fn what_another_inferno_had_asked_stops_when_it_is_gone() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let options = ["--ctx-size", "0", "--max-tokens", "-1"];
    let bridge = bridge_with(&home, &Tiny::endless(), &options);
    inferno.compile_with_module(&home, &sources().join("llambofs.b"));
    inferno.compile(&home, "-gw", &program("reader.b"));
    let port = free_port();
    let serve = format!(
        "styxlisten -A 'tcp!127.0.0.1!{port}' {{/dis/lib/llambofs.dis -s {}}}
         echo listening
         cat '#U*{}'",
        address(&bridge),
        fifo(&home).display()
    );
    let mut server = inferno.shell(&home, &serve);
    server.expect("listening");
    let ask = format!(
        "mount -A 'tcp!127.0.0.1!{port}' /chan
         cd /chan; id=`{{cat new}}; echo a >$id/ask
         /dis/lib/reader.dis $id/stream"
    );
    let mut client = inferno.shell(&home, &ask);
    client.expect("reading");
    process::wait_for_work(bridge.model_process(), 2);
    drop(client);
    // It serves one client at a time.
    bridge.connect().exchange("PING", &ok("pong"));
}

#[test]
fn who_started_the_files_with_w_may_load_and_free() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = bridge_with(&home, &Tiny::alphabet(), &[]);
    let model = home.join("model.gguf").display().to_string();
    let running = start(
        &inferno,
        &home,
        &bridge,
        "-w",
        &format!(
            "id=`{{cat new}}
             echo free >ctl; echo w >$id/ask; cat $id/ask
             echo load /nowhere.gguf >ctl
             echo load {model} >ctl; echo w >$id/ask; cat $id/ask"
        ),
    );
    expect(
        running,
        &[
            "cat: error reading 0/ask: No model loaded",
            "echo: write error: Failed to load model: /nowhere.gguf: no such file",
            "xyz",
        ],
    );
}
