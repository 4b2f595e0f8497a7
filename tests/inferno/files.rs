//! The model as files: llambofs, from Inferno's shell.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::{fs, thread};

use super::emulator::sources;
use super::emulator::{Inferno, Running};
use super::module::{address, program};
use super::pool::{fifo, open};
use crate::harness::{Bridge, Directory, Tiny, ok, process};

/// Compiles all, and gives the command that mounts the files of these bridges on `/chan`, a
/// directory that every Inferno has, and goes there.
pub(super) fn mount(
    inferno: &Inferno,
    home: &Directory,
    options: &str,
    addresses: &[&str],
) -> String {
    inferno.compile_with_module(home, &sources().join("llambofs.b"));
    format!(
        "/dis/lib/llambofs.dis {options} -m /chan {}\ncd /chan\n",
        addresses.join(" ")
    )
}

/// Starts a bridge whose model has a chat template: what was said, without anything between.
pub(super) fn bridge_with(home: &Directory, model: &Tiny, options: &[&str]) -> Bridge {
    let template = home.join("template");
    fs::write(
        &template,
        "{% for m in messages %}{{ m.content }}{% endfor %}",
    )
    .expect("the template can be written");
    let model = model.write(home.join("model.gguf"));
    let template = template.to_str().expect("test paths are UTF-8");
    let template = ["--chat-template-file", template];
    Bridge::with_model(home, &model, &[&template, options].concat())
}

/// Runs these commands in Inferno's shell, among the files of a bridge.
pub(super) fn start(
    inferno: &Inferno,
    home: &Directory,
    bridge: &Bridge,
    options: &str,
    commands: &str,
) -> Running {
    let mounted = mount(inferno, home, options, &[&address(bridge)]);
    inferno.shell(home, &(mounted + commands))
}

/// Expects these lines and no others; of a line that ends in `*` only the start is given.
pub(super) fn expect(mut running: Running, lines: &[&str]) {
    for line in lines {
        match line.strip_suffix('*') {
            Some(start) => expect_start(&mut running, start),
            None => running.expect(line),
        }
    }
    assert_eq!(running.line(), None);
}

/// Expects a line next that begins so.
pub(super) fn expect_start(running: &mut Running, start: &str) {
    let line = running.line().unwrap_or_default();
    assert!(line.starts_with(start), "{line:?} instead of {start:?}...");
}

/// Expects this line next, but for what the shell says of processes that were killed.
pub(super) fn expect_among_killed(running: &mut Running, line: &str) {
    loop {
        match running.line() {
            Some(found) if found.starts_with("sh: ") && found.ends_with("killed") => {}
            found => break assert_eq!(found.as_deref(), Some(line)),
        }
    }
}

#[test]
fn a_conversation_is_held_by_echo_and_cat() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = bridge_with(&home, &Tiny::alphabet(), &[]);
    let running = start(
        &inferno,
        &home,
        &bridge,
        "",
        "id=`{cat new}; echo conversation $id
         echo w >$id/ask; cat $id/ask
         cat $id/ask
         echo r >$id/ask; cat $id/stream; echo
         cat $id/context $id/usage
         echo reset >$id/ctl; cat $id/context
         echo you say >$id/system; echo t >$id/ask; cat $id/ask $id/system
         cat new; ls
         echo close >$id/ctl; ls",
    );
    expect(
        running,
        &[
            "conversation 0",
            "xyz",
            "xyz",
            "stuvwxyz",
            r#"[{"role":"user","content":"w"},{"role":"assistant","content":"xyz"},{"role":"user","content":"r"},{"role":"assistant","content":"stuvwxyz"}]"#,
            "14/512",
            "[]",
            "uvwxyz",
            "you say",
            "1",
            "0",
            "1",
            "ctl",
            "embed",
            "new",
            "status",
            "1",
            "ctl",
            "embed",
            "new",
            "status",
        ],
    );
}

#[test]
fn a_raw_prompt_goes_without_a_template_and_fields_shape_the_text() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = bridge_with(&home, &Tiny::alphabet(), &[]);
    let running = start(
        &inferno,
        &home,
        &bridge,
        "",
        "id=`{cat new}
         echo you say >$id/system
         echo -n w >$id/prompt; cat $id/prompt; echo
         cat $id/context
         echo set max_tokens 2 >$id/ctl; echo a >$id/ask; cat $id/ask
         echo set max_tokens >$id/ctl; echo set stop def >$id/ctl; echo a >$id/ask; cat $id/ask
         echo 'set stop [\"z\",\"g\"]' >$id/ctl; echo a >$id/ask; cat $id/ask
         echo q >$id/prefill; echo a >$id/ask; cat $id/ask
         cat $id/prefill
         >$id/prefill; echo set stop >$id/ctl; echo v >$id/ask; cat $id/ask",
    );
    expect(
        running,
        &["xyz", "[]", "bc", "bc", "bcdef", "qrstuvwxy", "q", "wxyz"],
    );
}

#[test]
fn what_is_wrong_arrives_as_an_error_of_the_write_or_the_read() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = bridge_with(&home, &Tiny::alphabet(), &[]);
    let running = start(
        &inferno,
        &home,
        &bridge,
        "-n 2 -b 1000",
        "id=`{cat new}
         echo hot >$id/temperature
         echo set colour red >$id/ctl; echo w >$id/ask; cat $id/ask
         echo set colour >$id/ctl; cat $id/temperature
         echo fly >$id/ctl
         echo set stream false >$id/ctl
         echo load /x.gguf >ctl
         echo other.gguf >$id/model; echo model.gguf >$id/model
         cat $id/context /dis/sh.dis >$id/ask
         cat $id/ask
         cat new; cat new
         echo w >$id/ask; cat $id/ask",
    );
    let model = home.join("model.gguf").display().to_string();
    expect(
        running,
        &[
            "echo: write error: temperature is a number or default, not hot",
            "cat: error reading 0/ask: Unknown field 'colour'; *",
            "default",
            "echo: write error: fly is no command: set NAME VALUE, stop, reset or close",
            "echo: write error: stream cannot be set: there is a file for it",
            "echo: write error: permission denied: only who started llambofs, with -w, may do that",
            &format!("echo: write error: other.gguf is not loaded, but {model}"),
            "cat: write error: longer than 1000 bytes",
            "cat: error reading 0/ask: Unknown field 'colour'; *",
            "1",
            "cat: error reading new: 2 conversations are open: write close to the ctl of one",
            "xyz",
        ],
    );
}

#[test]
fn four_conversations_at_once_get_each_its_own_answers() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let (home, other) = (Directory::new(), Directory::new());
    let bridges = [&home, &other].map(|home| bridge_with(home, &Tiny::alphabet(), &[]));
    for bridges in [&bridges[..1], &bridges[..]] {
        let addresses: Vec<String> = bridges.iter().map(address).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let mounted = mount(&inferno, &home, "", &addresses);
        inferno.compile(&home, "-gw", &program("conversations.b"));
        let command = format!("{mounted}/dis/lib/conversations.dis /chan");
        inferno.shell(&home, &command).expect("20 of 20 right");
    }
}

#[test]
fn reading_writing_and_settings_go_on_while_a_text_is_generated() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let options = ["--ctx-size", "0", "--max-tokens", "-1"];
    let bridge = bridge_with(&home, &Tiny::endless(), &options);
    let gate = fifo(&home);
    let mut running = start(
        &inferno,
        &home,
        &bridge,
        "",
        &format!(
            "id=`{{cat new}}; cat $id/usage
             echo a >$id/ask
             echo asked
             cat '#U*{}' >/dev/null
             echo b >$id/ask
             cat $id/context; cat $id/usage; cat status | sed -n 's/^busy/busy:/p'
             echo 0.5 >$id/temperature; cat $id/temperature; cat new
             echo stop >$id/ctl; cat $id/ask
             cat $id/context",
            gate.display()
        ),
    );
    running.expect("0/131072");
    running.expect("asked");
    process::wait_for_work(bridge.model_process(), 2);
    open(&gate);
    expect(
        running,
        &[
            "echo: write error: a text is being generated: write stop to ctl to end it",
            "[]",
            "0/131072",
            "busy: true",
            "0.5",
            "1",
            "cat: error reading 0/ask: stopped",
            "[]",
        ],
    );
}

#[test]
fn an_embedding_is_read_where_its_text_was_written() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = bridge_with(&home, &Tiny::alphabet(), &[]);
    let mut running = start(
        &inferno,
        &home,
        &bridge,
        "",
        "{echo -n ' a text' >[1=0]; cat} <>embed",
    );
    let mut client = bridge.connect();
    client.ask_netstring("EMBED  a text");
    let reply = client.receive();
    client.vanish();
    let numbers = reply.split(['[', ']']).nth(1).expect("an embedding");
    for number in numbers.split(',') {
        let expected: f32 = number.parse().expect("a number");
        let line = running.line().expect("a line for each number");
        assert_eq!(
            line.parse::<f32>().expect("a number").to_bits(),
            expected.to_bits()
        );
    }
    assert_eq!(running.line(), None);
}

/// The manual page.
fn page() -> String {
    fs::read_to_string(sources().join("llambofs.4")).expect("the page is there")
}

#[test]
fn the_manual_page_of_the_files_tells_of_each() {
    let page = page();
    let source = fs::read_to_string(sources().join("llambofs.b")).expect("the source is there");
    let names: Vec<&str> = source
        .lines()
        .filter_map(|line| line.strip_prefix("\tFile(\"")?.split('"').next())
        .collect();
    assert_eq!(names.len(), 14, "{names:?}");
    for name in names {
        let told = [".TP\n.B", ".B"]
            .iter()
            .any(|mark| page.contains(&format!("\n{mark} {name}\n")));
        assert!(told, "llambofs.4 does not tell of {name}");
    }
}

#[test]
fn the_chat_of_the_manual_page_runs_as_it_stands() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = bridge_with(&home, &Tiny::alphabet(), &[]);
    let page = page();
    let chat = page
        .split("Chat until the end of the input:\n.IP\n.EX\n")
        .nth(1)
        .and_then(|rest| rest.split(".EE").next())
        .expect("the page has a chat");
    assert_eq!(chat.lines().count(), 5, "{chat}");
    fs::write(home.join("chat"), chat.replace("/mnt/llm", "/chan")).expect("a file");
    fs::write(home.join("said"), "w\nwhat came before u\n").expect("a file");
    let running = start(
        &inferno,
        &home,
        &bridge,
        "",
        "sh /dis/lib/chat </dis/lib/said; echo; ls",
    );
    let files = ["ctl", "embed", "new", "status"];
    expect(running, &[&["> xyz", "> vwxyz", "> "], &files[..]].concat());
}

#[test]
fn an_answer_of_500_kb_arrives_whole() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    // A model takes minutes for that; this bridge has it all at once, in pieces of 1,000 bytes.
    let home = Directory::new();
    let port = scripted(|request| match request {
        "PING" => ok("pong"),
        "INFO" => r#"{"status":"ok","message":"Model loaded","context_size":600000}"#.into(),
        _ => {
            let piece = "0123456789".repeat(100);
            let statistics = r#""finish_reason":"stop","prompt_tokens":1,"cached_tokens":0,"completion_tokens":500000,"prompt_ms":1,"completion_ms":1,"seed":1"#;
            let partial = format!(r#"{{"status":"partial","message":"token","data":"{piece}"}}"#);
            let whole = piece.repeat(500);
            [
                vec![partial; 500].join("\n"),
                format!(r#"{{"status":"ok","message":"done","data":"{whole}",{statistics}}}"#),
            ]
            .join("\n")
        }
    });
    let address = format!("'tcp!127.0.0.1!{port}'");
    let mounted = mount(&inferno, &home, "", &[&address]);
    let commands = "id=`{cat new}
         echo z >$id/ask; cat $id/ask >/dis/lib/ask; cat $id/stream >/dis/lib/stream
         echo read; cat $id/usage";
    for file in ["ask", "stream"] {
        fs::write(home.join(file), "").expect("the file can be written");
    }
    let running = inferno.shell(&home, &(mounted + commands));
    expect(running, &["read", "500001/600000"]);
    let text = "0123456789".repeat(50_000);
    let read = |name| fs::read_to_string(home.join(name)).expect("the file is there");
    assert!(read("stream") == text, "{} bytes", read("stream").len());
    assert!(read("ask") == text + "\n", "{} bytes", read("ask").len());
}

/// A bridge that answers each line as it is told, on the port that it tells.
fn scripted(reply: impl Fn(&str) -> String + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let lines = BufReader::new(client.try_clone().expect("a connection can be shared"));
            for line in lines.lines().map_while(Result::ok) {
                if writeln!(client, "{}", reply(&line)).is_err() {
                    break;
                }
            }
        }
    });
    port
}

#[test]
fn a_message_and_a_command_of_many_fragments_arrive_as_one() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = bridge_with(
        &home,
        &Tiny::alphabet().context(60_000),
        &["--ctx-size", "0"],
    );
    fs::write(home.join("long"), "word ".repeat(6_000) + "w").expect("the file can be written");
    let command = format!("set stop [\"y\"{}]\n", " ".repeat(20_000));
    fs::write(home.join("command"), command).expect("the file can be written");
    let running = start(
        &inferno,
        &home,
        &bridge,
        "",
        "id=`{cat new}
         cat /dis/lib/long >$id/ask; cat $id/ask $id/usage
         cat /dis/lib/command >$id/ctl; echo w >$id/ask; cat $id/ask",
    );
    expect(running, &["xyz", "30005/60000", "x"]);
}
