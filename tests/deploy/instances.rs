//! `inferno/deploy.sh`: instances in the background, the model's file and the demonstration.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::deploy::build::StandIns;
use crate::harness::{
    Client, Directory, Ended, Tiny, lines_of, ok, process, program, run, skip, wait_until,
};

/// Size of the model that `fetch-model` keeps, in bytes.
const MODEL_BYTES: u64 = 98_362_432;

/// A user who runs no tests.
const STRANGER: u32 = 65_534;

/// The path of the script.
pub(crate) fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("inferno/deploy.sh")
}

fn deploy(arguments: &[&str]) -> Ended {
    run(Command::new(script()).args(arguments).current_dir("/"))
}

/// A NAME of the test's own. Its bridge is stopped and its files are removed at the end.
struct Instance(String);

impl Instance {
    fn new(test: &str) -> Instance {
        Instance(format!("test-{test}-{}", std::process::id()))
    }

    fn file(&self, kind: &str) -> PathBuf {
        PathBuf::from(format!("/tmp/llama-cpp-bridge-{}.{kind}", self.0))
    }

    fn deploy(&self, command: &str, options: &[&str]) -> Ended {
        deploy(&[&[command, &self.0], options].concat())
    }

    fn start(&self, options: &[&str]) {
        let started = self.deploy("start-bridge", options);
        assert_eq!(started.code, Some(0), "{started:?}");
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // A pipe in its place would hold up a script that reads it.
        if !self.file("pid").is_file() {
            let _ = fs::remove_file(self.file("pid"));
        }
        let _ = Command::new(script())
            .args(["stop-bridge", &self.0])
            .output();
        for kind in ["log", "log.old", "pid", "sock", "sock.lock", "start"] {
            let _ = fs::remove_file(self.file(kind));
        }
    }
}

#[test]
fn a_named_bridge_is_started_shown_and_stopped() {
    let instance = Instance::new("life");
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let model = model.to_str().expect("test paths are UTF-8");
    instance.start(&["--", "--threads", "1", "--model", model]);
    let mut client = Client::connect(&instance.file("sock"));
    client.ask("STATUS");
    let answer = ok(&format!("Model loaded: {model}"));
    client.expect(&answer);
    drop(client);

    let status = instance.deploy("status", &[]);
    assert_eq!(status.code, Some(0), "{status:?}");
    assert!(status.output.contains(&answer), "{status:?}");
    for kind in ["sock", "log"] {
        let path = instance.file(kind).display().to_string();
        assert!(status.output.contains(&path), "{status:?}");
    }
    let log = fs::read_to_string(instance.file("log")).expect("there is a log");
    assert!(log.contains("listening on "), "{log}");

    let stopped = instance.deploy("stop-bridge", &[]);
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    assert!(!instance.file("sock").exists());
    assert!(!instance.file("pid").exists());
    let status = instance.deploy("status", &[]);
    assert_eq!(status.code, Some(1), "{status:?}");
    assert!(status.output.contains("no bridge is running"), "{status:?}");
    let again = instance.deploy("stop-bridge", &[]);
    assert_eq!(again.code, Some(0), "{again:?}");
}

#[test]
fn several_instances_are_started_shown_and_stopped_at_once() {
    let family = Instance::new("family");
    let members = [1, 2, 3].map(|number| Instance(format!("{}-{number}", family.0)));
    let all = |command: &str, options: &[&str]| {
        deploy(&[&[command, "--instances", "3", &family.0], options].concat())
    };
    let started = all("start-bridge", &["--", "--threads", "1"]);
    assert_eq!(started.code, Some(0), "{started:?}");
    for member in &members {
        Client::connect(&member.file("sock")).exchange("PING", &ok("pong"));
    }
    assert_eq!(all("status", &[]).code, Some(0));
    assert_eq!(members[1].deploy("stop-bridge", &[]).code, Some(0));
    let status = all("status", &[]);
    assert_eq!(status.code, Some(1), "{status:?}");
    assert_eq!(status.output.matches("answers: ").count(), 2, "{status:?}");
    assert_eq!(all("stop-bridge", &[]).code, Some(0));
    assert!(!members.iter().any(|member| member.file("sock").exists()));

    let failed = all("start-bridge", &["--", "--threads", "none"]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert_eq!(
        failed.errors.matches("did not start").count(),
        1,
        "{failed:?}"
    );
    for count in ["0", "100", "-1", "many", ""] {
        let refused = deploy(&["start-bridge", "--instances", count]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        let reason = format!("--instances takes a number from 1 to 99, not '{count}'");
        assert!(refused.errors.contains(&reason), "{refused:?}");
    }
}

#[test]
fn a_bridge_that_serves_is_not_started_twice() {
    let instance = Instance::new("twice");
    instance.start(&[]);
    let again = instance.deploy("start-bridge", &[]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.errors.contains("already"), "{again:?}");
    let other = instance.deploy("start-bridge", &["--", "--threads", "1"]);
    assert_eq!(other.code, Some(1), "{other:?}");
    assert!(other.errors.contains("stop it first"), "{other:?}");
    let mut client = Client::connect(&instance.file("sock"));
    client.ask("PING");
    client.expect(&ok("pong"));
}

#[test]
fn a_start_that_fails_shows_the_end_of_the_log() {
    let instance = Instance::new("fails");
    let failed = instance.deploy("start-bridge", &["--", "--model", "/nowhere/a.gguf"]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    let reason = "Failed to load model: /nowhere/a.gguf: no such file";
    assert!(failed.errors.contains(reason), "{failed:?}");
    assert!(!instance.file("pid").exists());
}

#[test]
fn a_bridge_that_was_killed_is_started_again() {
    let instance = Instance::new("killed");
    instance.start(&[]);
    let pid = fs::read_to_string(instance.file("pid")).expect("its process id is kept");
    let pid = pid.trim().parse().expect("it is a number");
    process::signal(pid, "KILL");
    process::wait_for_end(pid);
    let status = instance.deploy("status", &[]);
    assert_eq!(status.code, Some(1), "{status:?}");
    assert!(status.output.contains("stale"), "{status:?}");
    instance.start(&[]);
}

#[test]
fn a_bridge_that_a_client_keeps_busy_is_stopped_all_the_same() {
    let instance = Instance::new("busy");
    instance.start(&[]);
    let mut client = Client::connect(&instance.file("sock"));
    client.ask("PING");
    client.expect(&ok("pong"));
    let stopped = instance.deploy("stop-bridge", &[]);
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    assert!(!instance.file("sock").exists());
}

#[test]
fn a_process_that_is_no_bridge_is_never_stopped() {
    let instance = Instance::new("stranger");
    let mut stranger = Command::new("sleep")
        .arg("600")
        .spawn()
        .expect("sleep can be run");
    fs::write(instance.file("pid"), stranger.id().to_string()).expect("/tmp can be written");
    let stopped = instance.deploy("stop-bridge", &[]);
    let lives = process::runs(stranger.id());
    stranger.kill().expect("it can be ended");
    stranger.wait().expect("it can be waited for");
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    assert!(lives, "{stopped:?}");
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    let cases: [(&[&str], &str); 9] = [
        (&[], "usage:"),
        (&["launch"], "unknown command 'launch'"),
        (&["status", "../x"], "bad NAME '../x'"),
        (&["status", "a", "b"], "status takes one NAME"),
        (&["demo", "Tell", "me"], "demo takes one PROMPT"),
        (&["fetch-model", "x"], "fetch-model takes no argument"),
        (&["start-bridge", "--", "-sx"], "chooses the socket"),
        (&["start-bridge", "--threads", "1"], "stand after --"),
        (
            &["start-bridge", "--", "--socket", "/tmp/x"],
            "chooses the socket",
        ),
    ];
    for (arguments, expected) in cases {
        let ended = deploy(arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        assert!(ended.errors.contains(expected), "{arguments:?}: {ended:?}");
        assert_eq!(ended.output, "", "{arguments:?}");
    }
}

#[test]
fn a_model_that_is_there_is_not_fetched_again() {
    let home = Directory::new();
    let kept = home.join("llama-cpp-bridge/SmolLM2-135M-Instruct.Q4_1.gguf");
    fs::create_dir(home.join("llama-cpp-bridge")).expect("a directory can be made");
    let file = File::create(&kept).expect("a file can be made");
    file.set_len(MODEL_BYTES).expect("it can have holes");
    let mut command = Command::new(script());
    let fetched = run(command
        .arg("fetch-model")
        .env("XDG_CACHE_HOME", home.path()));
    assert_eq!(fetched.code, Some(0), "{fetched:?}");
    assert_eq!(fetched.output, format!("{}\n", kept.display()));
    assert_eq!(fetched.errors, "");
}

/// A folder of built programs that the script takes for its own.
struct Target(Directory);

impl Target {
    fn new() -> Target {
        let home = Directory::new();
        fs::create_dir(home.join("release")).expect("a directory can be made");
        Target(home)
    }

    fn link(&self, program: &Path, name: &str) {
        symlink(program, self.0.join("release").join(name)).expect("a link can be made");
    }

    /// A bridge that is a shell script: `$real` is the real one.
    fn script_bridge(&self, text: &str) {
        let path = self.0.join("release/llama-cpp-bridge");
        let text = format!("#!/bin/sh\nreal='{}'\n{text}\n", program().display());
        StandIns::write(&path, &text);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(script());
        command
            .args(arguments)
            .env("CARGO_TARGET_DIR", self.0.path());
        command
    }
}

#[test]
fn without_llambo_a_bridge_is_started_and_stopped_all_the_same() {
    let instance = Instance::new("alone");
    let target = Target::new();
    target.link(program(), "llama-cpp-bridge");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::split_paths(&path).filter(|place| !place.join("llambo").exists());
    let path = std::env::join_paths(path).expect("PATH was one before");
    let deploy = |name| run(target.command(&[name, &instance.0]).env("PATH", &path));
    let started = deploy("start-bridge");
    assert_eq!(started.code, Some(0), "{started:?}");
    let pid = fs::read_to_string(instance.file("pid")).expect("its process id is kept");

    let status = deploy("status");
    assert_eq!(status.code, Some(1), "{status:?}");
    let expected = format!(
        "bridge {}: runs as process {}, but cannot be asked: \
         llambo, which could ask it, is not built (deploy.sh build-bridge)\n",
        instance.0,
        pid.trim()
    );
    assert!(status.output.starts_with(&expected), "{status:?}");
    let again = deploy("start-bridge");
    assert_eq!(again.code, Some(1), "{again:?}");
    let expected = format!("process {} serves on ", pid.trim());
    assert!(again.errors.contains(&expected), "{again:?}");
    let stopped = deploy("stop-bridge");
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    assert!(!instance.file("sock").exists());
}

/// Starts a command whose standard error is read while it runs.
fn spawn(command: &mut Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the script can be started")
}

#[test]
fn of_two_starts_at_once_the_second_waits_and_finds_the_bridge_of_the_first() {
    if !run(Command::new("sh").args(["-c", "command -v flock"]))
        .output
        .contains("flock")
    {
        return skip("there is no flock(1)");
    }
    let instance = Instance::new("race");
    let target = Target::new();
    target.link(Path::new(env!("CARGO_BIN_EXE_llambo")), "llambo");
    let gate = target.0.join("gate");
    assert!(run(Command::new("mkfifo").arg(&gate)).code == Some(0));
    target.script_bridge(&format!(
        "read -r line <'{}'; exec \"$real\" \"$@\"",
        gate.display()
    ));
    let mut first = spawn(&mut target.command(&["start-bridge", &instance.0]));
    wait_until("the first one has started its bridge", || {
        instance.file("pid").exists()
    });
    let mut second = spawn(&mut target.command(&["start-bridge", &instance.0]));
    let said = lines_of(second.stderr.take().expect("stderr is a pipe"));
    let line = said.recv_timeout(crate::harness::LIMIT).unwrap_or_default();
    assert_eq!(line, "deploy.sh: waiting for another start of this bridge");
    fs::write(&gate, "go\n").expect("the bridge reads it");
    let mut errors = String::new();
    let mut stderr = first.stderr.take().expect("stderr is a pipe");
    stderr.read_to_string(&mut errors).expect("it is UTF-8");
    let ended = first.wait().expect("it can be waited for");
    assert_eq!(ended.code(), Some(0), "{errors}");
    let ended = second.wait().expect("it can be waited for");
    let said: Vec<String> = said.iter().collect();
    assert_eq!(ended.code(), Some(0), "{said:?}");
    let socket = instance.file("sock").display().to_string();
    assert_eq!(
        said,
        [format!("deploy.sh: a bridge serves on {socket} already")]
    );
}

#[test]
fn a_start_that_is_interrupted_leaves_no_process_behind() {
    let instance = Instance::new("interrupted");
    let target = Target::new();
    target.script_bridge("exec sleep 600");
    let mut start = spawn(&mut target.command(&["start-bridge", &instance.0]));
    let mut pid = String::new();
    wait_until("its process id is kept", || {
        pid = fs::read_to_string(instance.file("pid")).unwrap_or_default();
        pid.ends_with('\n')
    });
    process::signal(start.id(), "TERM");
    let ended = start.wait().expect("it can be waited for");
    assert_eq!(ended.code(), Some(130));
    process::wait_for_end(pid.trim().parse().expect("it is a number"));
    assert!(!instance.file("pid").exists());
}

#[test]
fn a_socket_of_someone_else_is_not_asked_anything() {
    let instance = Instance::new("foreign");
    let socket = instance.file("sock");
    let _listener = UnixListener::bind(&socket).expect("a socket can be made");
    if chown(&socket, Some(STRANGER), None).is_err() {
        return skip("only root can give a socket to someone else");
    }
    let status = instance.deploy("status", &[]);
    assert_eq!(status.code, Some(1), "{status:?}");
    let reason = format!(
        "{} is not trusted: it belongs to uid {STRANGER}",
        socket.display()
    );
    let expected = format!("cannot be asked: {reason}");
    assert!(status.output.contains(&expected), "{status:?}");
    let stopped = instance.deploy("stop-bridge", &[]);
    assert_eq!(stopped.code, Some(1), "{stopped:?}");
    assert!(stopped.errors.contains(&reason), "{stopped:?}");
    let started = instance.deploy("start-bridge", &[]);
    assert_eq!(started.code, Some(1), "{started:?}");
    let expected = "another server is listening there";
    assert!(started.errors.contains(expected), "{started:?}");
    assert!(socket.exists());
}

#[test]
fn a_link_in_place_of_the_log_is_not_written_through() {
    let instance = Instance::new("link");
    let home = Directory::new();
    symlink(home.join("victim"), instance.file("log")).expect("a link can be made");
    instance.start(&[]);
    assert!(!home.join("victim").exists());
    assert!(!instance.file("log").is_symlink());
}

#[test]
fn a_pipe_in_place_of_the_process_id_is_not_read() {
    let instance = Instance::new("pipe");
    let made = run(Command::new("mkfifo").arg(instance.file("pid")));
    assert_eq!(made.code, Some(0), "{made:?}");
    let stopped = instance.deploy("stop-bridge", &[]);
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    assert!(stopped.errors.contains("no bridge"), "{stopped:?}");
}

#[test]
fn the_demonstration_shows_the_dialogue_and_at_last_the_text_of_the_answer() {
    let target = Target::new();
    let stand_ins = StandIns::new();
    stand_ins.add("cargo", "exit 0");
    let template = target.0.join("template.jinja");
    fs::write(&template, "{{ messages[0]['content'] }}").expect("it can be written");
    target.link(Path::new(env!("CARGO_BIN_EXE_llambo")), "llambo");
    target.script_bridge(&format!(
        "exec \"$real\" \"$@\" --threads 1 --temp 0 --chat-template-file '{}'",
        template.display()
    ));
    let cache = target.0.join("llama-cpp-bridge");
    fs::create_dir(&cache).expect("a directory can be made");
    let model = Tiny::mute().chain("!x\n\"\\u0123\t\u{1}.");
    let model = model.write(cache.join("SmolLM2-135M-Instruct.Q4_1.gguf"));
    let file = File::options()
        .write(true)
        .open(&model)
        .expect("it is there");
    file.set_len(MODEL_BYTES).expect("it can have holes");
    let mut demo = target.command(&["demo", "-%s\n\\n'!"]);
    let ended = run(stand_ins
        .build_here(&mut demo)
        .env("XDG_CACHE_HOME", target.0.path()));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let data = r#""data":"x\n\"\\u0123\t\u0001.""#;
    let expected = format!(
        "Client: PING\n{}\nClient: LOAD {}\n{}\n\
         Client: 14:INFER -%s\n\\n'!,\n\
         Server: {{\"status\":\"ok\",\"message\":\"Inference completed\",{data}}}\n\
         Client: 13:CHAT -%s\n\\n'!,\n\
         Server: {{\"status\":\"ok\",\"message\":\"Inference completed\",{data},",
        format_args!("Server: {}", ok("pong")),
        model.display(),
        format_args!("Server: {}", ok("Model loaded successfully")),
    );
    assert!(ended.output.starts_with(&expected), "{}", ended.output);
    let end = format!(
        "Client: FREE\nServer: {}\n\nx\n\"\\u0123\t.\n",
        ok("Resources freed")
    );
    assert!(ended.output.ends_with(&end), "{}", ended.output);
}

#[test]
fn a_demonstration_whose_reader_is_gone_leaves_no_bridge_behind() {
    let target = Target::new();
    let stand_ins = StandIns::new();
    stand_ins.add("cargo", "exit 0");
    target.link(Path::new(env!("CARGO_BIN_EXE_llambo")), "llambo");
    let pid = target.0.join("pid");
    target.script_bridge(&format!(
        "echo $$ >'{}'; exec \"$real\" \"$@\"",
        pid.display()
    ));
    let cache = target.0.join("llama-cpp-bridge");
    fs::create_dir(&cache).expect("a directory can be made");
    let model = cache.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let file = File::create(&model).expect("a file can be made");
    file.set_len(MODEL_BYTES).expect("it can have holes");
    let mut demo = target.command(&["demo"]);
    stand_ins.build_here(&mut demo);
    demo.env("XDG_CACHE_HOME", target.0.path());
    let mut demo = demo
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the script can be started");
    drop(demo.stdout.take());
    let ended = demo.wait().expect("it can be waited for");
    assert_eq!(ended.code(), Some(143));
    let pid = fs::read_to_string(&pid).expect("the bridge was started");
    process::wait_for_end(pid.trim().parse().expect("it is a number"));
}
