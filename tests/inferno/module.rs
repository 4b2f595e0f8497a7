//! The Limbo module, on a real emulator where there is one: `limbo` and `emu` on `PATH`, in
//! `$INFERNO_ROOT` or in `/usr/inferno`.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs};

use super::emulator::{Inferno, sources};

use crate::harness::{Bridge, Directory, Tiny, process, run, skip, smollm2_or_skip};

/// A program that was written for a test.
pub(super) fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/inferno")
        .join(name)
}

/// The address by which Inferno reaches a bridge.
pub(super) fn address(bridge: &Bridge) -> String {
    format!("unix!{}", bridge.socket().display())
}

/// Runs the module's own test program; its output must end in a verdict without failures.
fn run_test_program(inferno: &Inferno, home: &Directory, arguments: &[&str]) -> String {
    inferno.compile_with_module(home, &sources().join("llambo-ffi-test.b"));
    let output = inferno
        .start(home, "", "llambo-ffi-test", arguments)
        .output();
    let verdict = output.lines().find(|line| line.starts_with("verdict: "));
    let passed = verdict.is_some_and(|verdict| verdict.ends_with(" passed, 0 failed"));
    assert!(passed, "{output}");
    output
}

#[test]
fn the_limbo_test_program_passes_without_a_model() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let output = run_test_program(&inferno, &home, &["-a", &address(&bridge)]);
    for line in [
        "ok: a reply of 1 MB arrives whole",
        "ok: a request and a reply of 1 MB pass",
        "ok: a bridge that hangs up in the middle of a reply",
        "ok: 8 processes share one Bridge",
        "ok: the bridge goes on after a disconnect",
    ] {
        assert!(
            output.lines().any(|found| found == line),
            "no line {line:?} in:\n{output}"
        );
    }
}

#[test]
fn the_limbo_module_reaches_a_bridge_through_a_command_and_a_network() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let socket = bridge.socket().display().to_string();
    // Any program that passes bytes on will do; this one comes with every Debian.
    let relay = home.join("relay.pl");
    fs::write(&relay, RELAY).expect("the relay can be written");
    let relay = relay.display().to_string();
    let command = format!("'exec!perl {relay} - {socket}'");
    let network = Command::new("perl")
        .args([&relay, "tcp", &socket])
        .stdout(Stdio::piped())
        .spawn();
    let mut network = Killed(network.expect("perl can be run"));
    let mut port = String::new();
    let output = network.0.stdout.take().expect("stdout is a pipe");
    BufReader::new(output)
        .read_line(&mut port)
        .expect("the relay tells its port");
    let network_address = format!("'tcp!127.0.0.1!{}'", port.trim_end());
    let arguments = [
        "-a",
        &address(&bridge),
        "-o",
        &command,
        "-o",
        &network_address,
    ];
    let output = run_test_program(&inferno, &home, &arguments);
    assert_eq!(
        output.matches("ok: it answers through ").count(),
        2,
        "{output}"
    );
}

/// A helper that is killed when the test ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Passes bytes between a socket and standard input and output, or one client over TCP.
const RELAY: &str = r#"
use IO::Socket::INET; use IO::Socket::UNIX; use IO::Select;
my ($where, $path) = @ARGV;
my ($in, $out) = (\*STDIN, \*STDOUT);
if ($where eq "tcp") {
    my $listener = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") or die;
    $| = 1;
    print $listener->sockport, "\n";
    $in = $out = $listener->accept or die;
}
my $bridge = IO::Socket::UNIX->new(Peer => $path) or die;
my $select = IO::Select->new($in, $bridge);
while (my @ready = $select->can_read) {
    for my $from (@ready) {
        sysread $from, my $bytes, 65536 or exit;
        my $to = $from == $bridge ? $out : $bridge;
        $bytes = substr $bytes, syswrite($to, $bytes) while length $bytes;
    }
}
"#;

#[test]
fn the_documents_program_runs_as_it_stands() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let model = Tiny::mute().chain("!yes").write(home.join("model.gguf"));
    let bridge = Bridge::start(&home, &["--temp", "0"]);
    compile_documents_program(&inferno, &home, &model);
    let settings = format!("LLAMA_CPP_BRIDGE_SOCKET='{}'", address(&bridge));
    let mut running = inferno.start(&home, &settings, "example", &[]);
    running.expect("Model loaded: Model loaded successfully");
    running.expect("Result: yes");
    assert_eq!(running.line(), None);
}

#[test]
fn the_documents_program_says_that_there_is_no_bridge() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    compile_documents_program(&inferno, &home, Path::new("/model"));
    let settings = format!("LLAMA_CPP_BRIDGE_SOCKET='unix!{}'", home.socket().display());
    let mut running = inferno.start(&home, &settings, "example", &[]);
    running.expect("Failed to connect to bridge");
    assert_eq!(running.line(), None);
}

/// Compiles the documents' program into `home` as `example.dis`. It is not free of warnings: it
/// declares `ok` and `msg` again in an inner block, and uses neither `args` nor the inner `msg`.
fn compile_documents_program(inferno: &Inferno, home: &Directory, model: &Path) {
    let text = fs::read_to_string(program("documents-example.b")).expect("the program is there");
    let source = home.join("example.b");
    fs::write(&source, framed(&text, model)).expect("the program can be written");
    inferno.compile(home, "-gw", &sources().join("llambo-ffi.b"));
    inferno.compile(home, "-g", &source);
}

/// The documents' program, with the four things that it leaves to the reader and no others.
fn framed(text: &str, model: &Path) -> String {
    let model = model.display().to_string();
    let include = "include \"llambo-ffi.m\";\n";
    let import = "    Bridge: import ffi;\n";
    let begin = "init(ctx: ref Draw->Context, args: list of string)\n{\n";
    [
        // `Draw` and `print` come from these modules; Limbo's files include no others themselves.
        (
            include,
            "include \"sys.m\";\n sys: Sys;\n print: import sys;\ninclude \"draw.m\";\n",
            include,
        ),
        // What follows `implement` must be declared.
        (
            import,
            import,
            "MyApp: module { init: fn(ctx: ref Draw->Context, args: list of string); };\n",
        ),
        // `print` works once its module is loaded.
        (begin, begin, "sys = load Sys Sys->PATH;\n"),
        // A model that is there.
        ("/path/to/model.gguf", &model, ""),
    ]
    .iter()
    .fold(text.to_string(), |text, (place, first, second)| {
        assert_eq!(text.matches(place).count(), 1, "{place:?}");
        text.replace(place, &format!("{first}{second}"))
    })
}

#[test]
fn eight_limbo_processes_share_one_bridge_and_each_gets_its_own_text() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("model.gguf"));
    let bridge = Bridge::with_model(&home, &model, &[]);
    inferno.compile_with_module(&home, &program("shared.b"));
    let mut running = inferno.start(&home, "", "shared", &[&address(&bridge)]);
    running.expect("160 of 160 right");
}

#[test]
fn a_limbo_program_learns_that_the_bridge_was_killed_while_it_generated() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let model = Tiny::endless().write(home.join("model.gguf"));
    let options = ["--ctx-size", "0", "--max-tokens", "-1"];
    let mut bridge = Bridge::with_model(&home, &model, &options);
    inferno.compile_with_module(&home, &program("interrupted.b"));
    let address = address(&bridge);
    let mut running = inferno.start(&home, "", "interrupted", &[&address]);
    running.expect("asking");
    process::wait_for_work(bridge.model_process(), 2);
    process::signal(bridge.pid(), "KILL");
    bridge.wait();
    running.expect(&format!("-1 {address}: the bridge hung up"));
    running.expect(&format!("-1 {address}: not connected"));
}

#[test]
fn limbo_prompts_with_newlines_quotes_emoji_and_nul_arrive_as_they_are() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = Bridge::with_model(&home, &model, &["--max-tokens", "16"]);
    // The same prompts from here: each has one greedy continuation, and another prompt another.
    let mut expected = Vec::new();
    let mut client = bridge.connect();
    for prompt in [
        "Colours:\n1. red\n2. green\n",
        "She said \"no\" and wrote C:\\temp, didn't she?",
        "A smile: \u{1F600}",
        "U+0000 stands here: \0",
        "ends in a carriage return\r",
    ] {
        client.ask_netstring(&format!("INFER {prompt}"));
        expected.push(format!(
            "1 Inference completed {}",
            hexadecimal(&data(&client.receive()))
        ));
    }
    client.vanish();
    inferno.compile_with_module(&home, &program("prompts.b"));
    let mut running = inferno.start(&home, "", "prompts", &[&address(&bridge)]);
    expected.iter().for_each(|line| running.expect(line));
}

/// The text of an `INFER` reply.
fn data(reply: &str) -> String {
    let object: miniserde::json::Value = miniserde::json::from_str(reply).expect("JSON");
    match object {
        miniserde::json::Value::Object(members) => match members.get("data") {
            Some(miniserde::json::Value::String(text)) => text.clone(),
            _ => panic!("no data in {reply}"),
        },
        _ => panic!("no object: {reply}"),
    }
}

fn hexadecimal(text: &str) -> String {
    text.bytes().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[test]
fn deploy_sh_test_ffi_gives_the_verdict_as_exit_status() {
    if Inferno::or_skip().is_none() {
        return;
    }
    let home = Directory::new();
    let mut deploy = Command::new(sources().join("deploy.sh"));
    let ended = run(deploy.arg("test-ffi"));
    assert_eq!(ended.code, Some(0), "{}{}", ended.output, ended.errors);
    for line in ["ok: ask without a model is refused", " passed, 0 failed"] {
        assert!(ended.output.contains(line), "{}", ended.output);
    }
    let broken = home.join("broken.gguf");
    fs::write(&broken, "GGUF").expect("the file can be written");
    let ended = run(Command::new(sources().join("deploy.sh"))
        .arg("test-ffi")
        .arg(&broken));
    assert_eq!(ended.code, Some(1), "{}{}", ended.output, ended.errors);
    assert!(
        ended.output.contains("FAILED: the model loads"),
        "{}",
        ended.output
    );
}

#[test]
fn deploy_sh_installs_the_limbo_module_where_inferno_keeps_its_own() {
    if Inferno::or_skip().is_none() {
        return;
    }
    let home = Directory::new();
    let mut deploy = Command::new(sources().join("deploy.sh"));
    let ended = run(deploy.args(["compile", "--install"]).arg(home.path()));
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
    for file in [
        "dis/lib/llambo-ffi.dis",
        "dis/llambo-ffi-test.dis",
        "dis/llambofs.dis",
        "module/llambo-ffi.m",
        "man/2/llambo-ffi",
        "man/4/llambofs",
    ] {
        assert!(home.join(file).is_file(), "{file} is missing");
    }
}

#[test]
fn deploy_sh_says_what_to_install_where_there_is_no_inferno() {
    let home = Directory::new();
    let path = env::var_os("PATH").unwrap_or_default();
    // A tree that is found on PATH would be one.
    let path = env::split_paths(&path).filter(|place| !place.join("limbo").exists());
    let path = env::join_paths(path.filter(|place| !place.join("emu").exists()));
    let path = path.expect("PATH was one before");
    for (arguments, missing) in [(["compile"], "limbo"), (["test-ffi"], "emu")] {
        let mut deploy = Command::new(sources().join("deploy.sh"));
        deploy
            .args(arguments)
            .env("INFERNO_ROOT", home.path())
            .env("PATH", &path);
        let ended = run(&mut deploy);
        assert_eq!(ended.code, Some(1), "{}", ended.errors);
        let expected = format!(
            "no {missing} found, neither on PATH nor in {}",
            home.path().display()
        );
        assert!(ended.errors.contains(&expected), "{}", ended.errors);
    }
}

#[test]
fn the_manual_page_of_the_limbo_module_gives_its_declarations() {
    let module = fs::read_to_string(sources().join("llambo-ffi.m")).expect("the module is there");
    let page = fs::read_to_string(sources().join("llambo-ffi.2")).expect("the page is there");
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    let page = squeezed(&page);
    let mut private = false;
    for line in module
        .lines()
        .map(|line| line.split('#').collect::<Vec<_>>())
    {
        let comment = line.get(1).map_or("", |comment| comment.trim());
        let declaration = squeezed(line[0]);
        private = (private && declaration != "};") || comment == "private to the module";
        if private || !declaration.ends_with(';') || declaration.starts_with("PATH:") {
            continue;
        }
        assert!(
            page.contains(&declaration),
            "llambo-ffi.2 does not have: {}",
            line[0].trim()
        );
    }
}

#[test]
fn a_limbo_pool_serves_from_two_bridges_and_goes_on_with_one() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let (home, other) = (Directory::new(), Directory::new());
    let model = Tiny::alphabet().write(home.join("model.gguf"));
    let mut stopped = Bridge::with_model(&home, &model, &[]);
    let bridge = Bridge::with_model(&other, &model, &[]);
    inferno.compile_with_module(&home, &program("pool.b"));
    let addresses = [address(&stopped), address(&bridge)];
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut running = inferno.start(&home, "", "pool", &addresses);
    running.expect("two bridges: 1");
    running.expect("40 of 40 right");
    running.expect("1 Goodbye");
    running.expect("40 of 40 right");
    stopped.expect_stop(&[]);
}

#[test]
fn the_manual_pages_of_the_limbo_side_are_clean() {
    let mut lint = Command::new("mandoc");
    lint.args(["-T", "lint", "-W", "warning"]);
    lint.args(["llambo-ffi.2", "llambofs.4"].map(|page| sources().join(page)));
    if lint.output().is_err() {
        return skip("there is no mandoc to check the manuals with");
    }
    let ended = run(&mut lint);
    assert_eq!(ended.code, Some(0), "{}{}", ended.output, ended.errors);
}

// What follows needs the bridge's added verbs.

#[test]
fn the_limbo_test_program_passes_with_smollm2() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = Bridge::start(&home, &["--max-tokens", "32"]);
    let model = format!("'{}'", model.display());
    let output = run_test_program(&inferno, &home, &["-a", &address(&bridge), &model]);
    let line = "ok: a prompt with U+0000 is answered";
    assert!(
        output.lines().any(|found| found == line),
        "no line {line:?} in:\n{output}"
    );
}

#[test]
fn a_limbo_program_learns_that_the_bridge_was_killed_in_the_middle_of_a_stream() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let model = Tiny::endless().write(home.join("model.gguf"));
    let options = ["--ctx-size", "0", "--max-tokens", "-1"];
    let mut bridge = Bridge::with_model(&home, &model, &options);
    inferno.compile_with_module(&home, &program("interrupted.b"));
    let address = address(&bridge);
    let mut running = inferno.start(&home, "", "interrupted", &[&address, "stream"]);
    running.expect("asking");
    process::signal(bridge.pid(), "KILL");
    bridge.wait();
    let reason = running.line().unwrap_or_default();
    let hung_up = format!("-1 {address}: the bridge hung up");
    assert!(reason.starts_with(&hung_up), "{reason}");
    running.expect(&format!("-1 {address}: not connected"));
}

#[test]
fn disconnecting_in_limbo_ends_a_stream_and_the_bridges_work_on_it() {
    let Some(inferno) = Inferno::or_skip() else {
        return;
    };
    let home = Directory::new();
    let model = Tiny::endless().write(home.join("model.gguf"));
    let options = ["--ctx-size", "0", "--max-tokens", "-1"];
    let bridge = Bridge::with_model(&home, &model, &options);
    inferno.compile_with_module(&home, &program("interrupted.b"));
    let address = address(&bridge);
    let mut running = inferno.start(&home, "", "interrupted", &[&address, "leave"]);
    running.expect("asking");
    running.expect(&format!("-1 {address}: disconnected"));
    running.expect(&format!("-1 {address}: not connected"));
    bridge
        .connect()
        .exchange("PING", r#"{"status":"ok","message":"pong"}"#);
}
