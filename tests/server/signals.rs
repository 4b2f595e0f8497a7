//! Signals that were blocked or ignored already when the bridge was started.

use std::fs;
use std::process::Command;

use crate::harness::{Bridge, Directory, Tiny, completed, failure, ok, process, program, skip};

/// A command that starts the bridge after these lines of Perl, which can block and ignore signals;
/// `None`, said aloud, where there is no Perl.
fn after_perl(home: &Directory, lines: &str) -> Option<Command> {
    if Command::new("perl")
        .args(["-MPOSIX", "-e", "1"])
        .output()
        .is_err()
    {
        skip("there is no perl to block and ignore signals with");
        return None;
    }
    let model = Tiny::endless().write(home.join("endless.gguf"));
    let mut perl = Command::new("perl");
    perl.args([
        "-MPOSIX=:signal_h",
        "-e",
        &format!("{lines}; exec @ARGV or die"),
    ])
    .arg(program())
    .args(["--threads", "1", "--temp", "0", "-n", "-1", "-c", "0"])
    .arg("--socket")
    .arg(home.socket())
    .arg("--model")
    .arg(model);
    Some(perl)
}

/// A bridge started so, and its model process.
fn started_after(home: &Directory, lines: &str) -> Option<(Bridge, u32)> {
    let bridge = Bridge::start_command(&mut after_perl(home, lines)?, home.socket());
    let child = bridge.model_process();
    Some((bridge, child))
}

/// The set of signals that `/proc/PID/status` gives under this name, a bit for each.
fn signal_set(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let set = status.lines().find_map(|line| line.strip_prefix(name));
    u64::from_str_radix(set.expect("Linux tells it").trim(), 16).expect("it is hexadecimal")
}

/// The bits of SIGHUP and SIGCHLD in such a set.
const HUP: u64 = 1;
const CHLD: u64 = 1 << 16;

#[test]
fn signals_that_were_blocked_stop_the_bridge_all_the_same() {
    for signal in ["TERM", "INT", "HUP"] {
        let home = Directory::new();
        let block = "sigprocmask(SIG_BLOCK, POSIX::SigSet->new(1 .. 31))";
        let Some((mut bridge, child)) = started_after(&home, block) else {
            return;
        };
        for pid in [bridge.pid(), child] {
            assert_eq!(signal_set(pid, "SigBlk:"), 0, "of {pid}");
        }
        process::signal(bridge.pid(), signal);
        bridge.expect_stop(&[child]);
    }
}

#[test]
fn a_hangup_that_was_ignored_stays_so() {
    let home = Directory::new();
    let Some((mut bridge, child)) = started_after(&home, "$SIG{HUP} = 'IGNORE'") else {
        return;
    };
    for pid in [bridge.pid(), child] {
        process::signal(pid, "HUP");
    }
    let mut client = bridge.connect();
    client.exchange("INFER !", &completed(""));
    assert_eq!(bridge.model_process(), child);
    process::signal(bridge.pid(), "TERM");
    bridge.expect_stop(&[child]);
}

#[test]
fn other_stop_signals_that_were_ignored_stop_the_bridge() {
    for signal in ["TERM", "INT"] {
        let home = Directory::new();
        let ignore = format!("$SIG{{{signal}}} = 'IGNORE'");
        let Some((mut bridge, child)) = started_after(&home, &ignore) else {
            return;
        };
        assert_eq!(signal_set(child, "SigIgn:") & HUP, 0);
        process::signal(bridge.pid(), signal);
        bridge.expect_stop(&[child]);
    }
}

#[test]
fn what_a_model_process_died_of_is_told_although_sigchld_was_ignored() {
    let home = Directory::new();
    let Some((bridge, child)) = started_after(&home, "$SIG{CHLD} = 'IGNORE'") else {
        return;
    };
    for pid in [bridge.pid(), child] {
        assert_eq!(signal_set(pid, "SigIgn:") & CHLD, 0, "of {pid}");
    }
    let mut client = bridge.connect();
    client.ask("INFER a");
    process::wait_for_work(child, 10);
    process::signal(child, "KILL");
    client.expect(&failure(
        "model_died",
        "Model process died: killed by SIGKILL",
    ));
    client.exchange("PING", &ok("pong"));
}
