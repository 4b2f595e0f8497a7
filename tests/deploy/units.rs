//! The examples for service managers: units of systemd, and a run file of s6.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::{Client, Directory, Tiny, completed, program, run, skip, wait_until};

/// How exposed systemd may find the service, of 10.
const MOST_EXPOSED: f64 = 2.0;

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("man/examples")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether a program is installed; if not, that is said.
fn installed(name: &str) -> bool {
    let found = Command::new(name).arg("--version").output().is_ok();
    if !found {
        skip(&format!("there is no {name}"));
    }
    found
}

/// Writes the units where systemd-analyze reads them, for the program that is tested.
fn units(home: &Directory) -> PathBuf {
    let service = example("llama-cpp-bridge@.service").replace(
        "/usr/bin/llama-cpp-bridge",
        program().to_str().expect("test paths are UTF-8"),
    );
    let path = home.join("llama-cpp-bridge@.service");
    fs::write(&path, service).expect("it can be written");
    let socket = example("llama-cpp-bridge@.socket");
    fs::write(home.join("llama-cpp-bridge@.socket"), socket).expect("it can be written");
    path
}

/// The value of a line `NAME=VALUE` of the service.
fn setting(name: &str) -> String {
    let service = example("llama-cpp-bridge@.service");
    let line = service
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name}=")));
    line.unwrap_or_else(|| panic!("no {name}=")).to_string()
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if !installed("systemd-analyze") {
        return;
    }
    let home = Directory::new();
    let service = units(&home);
    for unit in [&service, &home.join("llama-cpp-bridge@.socket")] {
        let mut verify = Command::new("systemd-analyze");
        let ended = run(verify.args(["verify", "--man=no"]).arg(unit));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(ended.errors, "", "{ended:?}");
    }
}

#[test]
fn the_service_is_hardly_exposed() {
    if !installed("systemd-analyze") {
        return;
    }
    let home = Directory::new();
    let mut security = Command::new("systemd-analyze");
    security
        .args(["security", "--offline=true", "--no-pager"])
        .arg(units(&home));
    let ended = run(&mut security);
    let said = ended
        .output
        .split_once("Overall exposure level for ")
        .and_then(|(_, rest)| rest.split_once(": "))
        .and_then(|(_, rest)| rest.split_whitespace().next());
    let level: f64 = said
        .and_then(|level| level.parse().ok())
        .unwrap_or_else(|| {
            panic!("no level in {ended:?}");
        });
    assert!(level < MOST_EXPOSED, "{}", ended.output);
}

#[test]
fn the_bridge_takes_the_options_of_the_service() {
    let line = setting("ExecStart");
    let (path, options) = line.split_once(' ').expect("it has options");
    assert_eq!(path, "/usr/bin/llama-cpp-bridge");
    let options: Vec<&str> = options
        .split(' ')
        .filter(|word| *word != "$OPTIONS")
        .collect();
    // The last one has the program end once it has read all of them.
    let ended = run(Command::new(program()).args(&options).arg("--version"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// s6-supervise at work on a service. The service and it are ended with the test.
struct Supervised {
    child: Child,
    directory: PathBuf,
}

impl Drop for Supervised {
    fn drop(&mut self) {
        let mut down = Command::new("s6-svc");
        let _ = down.args(["-x", "-d"]).arg(&self.directory).status();
        let _ = self.child.wait();
    }
}

#[test]
fn s6_starts_a_bridge_and_knows_when_it_serves() {
    if !installed("s6-supervise") || !installed("s6-ipcserver-socketbinder") {
        return;
    }
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let directory = home.join("service");
    fs::create_dir(&directory).expect("it can be made");
    let run_file = example("s6-run");
    let given = [
        ("exec llama-cpp-bridge ", program()),
        ("/run/llama-cpp-bridge/model.sock", &home.socket()),
        ("/srv/llama-cpp-bridge/model.gguf", &model),
    ];
    let run_file = given.iter().fold(run_file, |text, (shown, here)| {
        assert!(text.contains(shown), "{shown} is not in\n{text}");
        let here = match *shown {
            "exec llama-cpp-bridge " => format!("exec {} --temp 0 -t 1 ", here.display()),
            _ => here.display().to_string(),
        };
        text.replace(shown, &here)
    });
    fs::write(directory.join("run"), run_file).expect("it can be written");
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory.join("run"), executable).expect("it is ours");
    fs::write(directory.join("notification-fd"), "1\n").expect("it can be written");
    let child = Command::new("s6-supervise")
        .arg(&directory)
        .stdin(Stdio::null())
        .spawn();
    let supervised = Supervised {
        child: child.expect("it can be started"),
        directory: directory.clone(),
    };
    wait_until("s6-supervise watches", || {
        directory.join("supervise/control").exists()
    });
    let ended = run(Command::new("s6-svwait")
        .args(["-U", "-t", "60000"])
        .arg(&directory));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mut client = Client::connect(&home.socket());
    client.exchange("INFER w", &completed("xyz"));
    drop(supervised);
}

#[test]
fn the_run_file_is_a_clean_script() {
    if !installed("shellcheck") {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/examples/s6-run");
    let ended = run(Command::new("shellcheck").arg(path));
    assert_eq!(ended.code, Some(0), "{}", ended.output);
}
