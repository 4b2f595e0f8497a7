//! Memory that is short: told before a load, and after a death.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{
    Bridge, Directory, command, failure, loaded, ok, process, program, run, skip, smollm2_or_skip,
    wait_until,
};

/// More than any host has.
const HUGE: u64 = 1 << 42;

/// A file that begins as a model does, and is so large. It takes no room on disk.
fn huge(home: &Directory) -> PathBuf {
    let path = home.join("huge.gguf");
    fs::write(&path, b"GGUF\xff\xff\xff\x7f").expect("a file can be written");
    let file = File::options()
        .write(true)
        .open(&path)
        .expect("it is there");
    file.set_len(HUGE).expect("a file can have holes");
    path
}

#[test]
fn a_model_larger_than_the_memory_is_refused_with_the_numbers() {
    let home = Directory::new();
    let path = huge(&home);
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    client.ask(&format!("LOAD {}", path.display()));
    let message = client.expect_error("load_failed");
    let start = format!(
        "Failed to load model: {}: needs at least 4.0 TiB of memory (weights 4.0 TiB), but ",
        path.display()
    );
    assert!(message.starts_with(&start), "{message}");
    assert!(
        message.ends_with("; --force-load tries anyway"),
        "{message}"
    );
    client.exchange("STATUS", &ok("No model loaded"));
}

#[test]
fn force_load_leaves_it_to_llama_cpp() {
    let home = Directory::new();
    let path = huge(&home);
    let bridge = Bridge::start(&home, &["--force-load"]);
    let mut client = bridge.connect();
    client.ask(&format!("LOAD {}", path.display()));
    let message = client.expect_error("load_failed");
    assert!(!message.contains("of memory"), "{message}");
}

/// A control group of this test's own with a limit on memory. It is removed with this.
struct Limited(PathBuf);

impl Limited {
    /// Makes one below that of the tests; `None` where that is not allowed.
    fn new(name: &str, bytes: u64) -> Option<Limited> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = |line: &str| line.rsplit(':').next().map(|path| path[1..].to_string());
        let first = own.lines().find(|line| line.contains(":memory:"));
        let (root, limit, line) = match first {
            Some(line) => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", line),
            None => {
                let second = own.lines().find(|line| line.starts_with("0::"))?;
                ("/sys/fs/cgroup", "memory.max", second)
            }
        };
        let name = format!("llama-cpp-bridge-test-{}-{name}", std::process::id());
        let group = Limited(Path::new(root).join(path(line)?).join(name));
        fs::create_dir(&group.0).ok()?;
        fs::write(group.0.join(limit), bytes.to_string()).ok()?;
        // Swap would take what does not fit; not every kernel counts it.
        let _ = fs::write(group.0.join("memory.swap.max"), "0");
        Some(group)
    }

    /// Starts a bridge in it.
    fn start(&self, home: &Directory, options: &[&str]) -> Bridge {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "echo $$ > \"$1\" && shift && exec \"$@\"", "sh"])
            .arg(self.0.join("cgroup.procs"))
            .arg(program())
            .args(command(home, options).get_args());
        Bridge::start_command(&mut shell, home.socket())
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // The processes in it have to be gone.
        for _ in 0..1000 {
            if fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// The limited group of a test, or a loud skip.
fn limited_or_skip(name: &str, mebibytes: u64) -> Option<Limited> {
    let group = Limited::new(name, mebibytes << 20);
    if group.is_none() {
        skip("no control group with a limit on memory can be made here");
    }
    group
}

#[test]
fn the_limit_of_the_control_group_counts() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let Some(group) = limited_or_skip("limit", 200) else {
        return;
    };
    let home = Directory::new();
    // 30 layers of 3 heads of 64 keys and 64 values, 2 bytes each: 22.5 KiB a token.
    let bridge = group.start(&home, &["--ctx-size", "8192"]);
    let mut client = bridge.connect();
    client.ask(&format!("LOAD {}", model.display()));
    let message = client.expect_error("load_failed");
    for part in [
        "weights 93.8 MiB, context 180.0 MiB, buffers ",
        "is left by the limit of its control group; a smaller --ctx-size needs less, --force-load",
    ] {
        assert!(message.contains(part), "{message}");
    }
    drop(bridge);
    let bridge = group.start(&home, &["--ctx-size", "256"]);
    let mut client = bridge.connect();
    client.exchange(&format!("LOAD {}", model.display()), loaded());
}

#[test]
fn a_model_that_the_kernel_kills_for_want_of_memory_is_told_as_such() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let Some(group) = limited_or_skip("killed", 48) else {
        return;
    };
    let home = Directory::new();
    let bridge = group.start(&home, &["--force-load", "--no-mmap"]);
    let mut client = bridge.connect();
    let path = model.display();
    let reason = "killed by SIGKILL, by the OOM killer";
    client.exchange(
        &format!("LOAD {path}"),
        &failure(
            "load_failed",
            &format!("Failed to load model: {path}: {reason}"),
        ),
    );
    client.exchange("PING", &ok("pong"));
}

#[test]
fn a_model_that_somebody_else_kills_is_no_want_of_memory() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let bridge = Bridge::with_model(&home, &model, &[]);
    process::signal(bridge.model_process(), "KILL");
    wait_until("the death is told", || {
        bridge.errors().contains("model process died")
    });
    let errors = bridge.errors();
    assert!(
        errors.ends_with("model process died: killed by SIGKILL\n"),
        "{errors}"
    );
}

#[test]
fn a_model_of_the_command_line_that_does_not_fit_keeps_the_bridge_from_serving() {
    let home = Directory::new();
    let path = huge(&home);
    let path = path.to_str().expect("test paths are UTF-8");
    let ended = run(&mut command(&home, &["--model", path]));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.errors.contains(": needs at least 4.0 TiB of memory "),
        "{ended:?}"
    );
}
