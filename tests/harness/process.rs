//! What `/proc` tells of processes, and signals to them.

use std::fs;
use std::process::Command;

use super::wait_until;

/// The part of `/proc/PID/stat` that tests look at.
struct Stat {
    /// `R`, `S`, `Z` and so on.
    state: char,
    parent: u32,
    /// Processor time used so far, in ticks.
    ticks: u64,
}

impl Stat {
    /// `None` if there is no such process.
    fn of(pid: u32) -> Option<Stat> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program's name, in parentheses, may hold blanks; what follows does not.
        let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
        Some(Stat {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            ticks: fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?,
        })
    }

    /// Whether it has ended and only waits to be reaped.
    fn dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// Whether the process runs. One that ended and was not reaped yet does not.
pub(crate) fn runs(pid: u32) -> bool {
    Stat::of(pid).is_some_and(|stat| !stat.dead())
}

/// Processor time that the process has used so far, in ticks (a hundredth of a second on Linux).
pub(crate) fn ticks(pid: u32) -> u64 {
    Stat::of(pid).map_or(0, |stat| stat.ticks)
}

/// The running children of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    family(pid, |stat| !stat.dead())
}

/// The children that ended and were not reaped.
pub(crate) fn zombies(pid: u32) -> Vec<u32> {
    family(pid, Stat::dead)
}

fn family(pid: u32, keep: impl Fn(&Stat) -> bool) -> Vec<u32> {
    let numbers = fs::read_dir("/proc").expect("/proc can be read").flatten();
    numbers
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&child| Stat::of(child).is_some_and(|stat| stat.parent == pid && keep(&stat)))
        .collect()
}

/// The most memory that the process ever had resident, in bytes.
pub(crate) fn peak_memory(pid: u32) -> u64 {
    status_bytes(pid, "VmHWM:")
}

/// The memory that the process has resident, in bytes.
pub(crate) fn memory(pid: u32) -> u64 {
    status_bytes(pid, "VmRSS:")
}

/// The memory that the process has to itself, in bytes.
pub(crate) fn data_size(pid: u32) -> u64 {
    status_bytes(pid, "VmData:")
}

/// A figure of `/proc/PID/status` that is given in kibibytes.
fn status_bytes(pid: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(name));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.expect("Linux tells it") * 1024
}

/// What `/proc/PID/status` says of each thread of the process under this name.
pub(crate) fn status_of_threads(pid: u32, name: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let texts = threads.flatten().filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches(':').trim().to_string())
    });
    texts.collect()
}

/// The most memory that the process may have to itself, in bytes; `None` is no limit.
pub(crate) fn data_limit(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).expect("the process runs");
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("Max data size"));
    line?.split_whitespace().next()?.parse().ok()
}

/// Sets how much memory the process may have to itself.
pub(crate) fn limit_data(pid: u32, bytes: u64) {
    let (pid, limit) = (format!("--pid={pid}"), format!("--data={bytes}:"));
    let status = Command::new("prlimit").args([pid, limit]).status();
    assert!(status.expect("prlimit can be run").success());
}

/// Sets how many files the process may have open.
pub(crate) fn limit_files(pid: u32, count: u32) {
    let (pid, limit) = (format!("--pid={pid}"), format!("--nofile={count}:"));
    let status = Command::new("prlimit").args([pid, limit]).status();
    assert!(status.expect("prlimit can be run").success());
}

/// Whether the process waits for something to happen.
pub(crate) fn sleeps(pid: u32) -> bool {
    Stat::of(pid).is_some_and(|stat| stat.state == 'S')
}

/// Sends a signal, as `kill -s NAME PID`.
pub(crate) fn signal(pid: u32, name: &str) {
    let script = format!("kill -s {name} {pid}");
    let status = Command::new("sh").args(["-c", &script]).status();
    assert!(status.expect("sh can be run").success(), "{script} failed");
}

/// Waits until the process is at work: until it has used `more` ticks of processor time.
pub(crate) fn wait_for_work(pid: u32, more: u64) {
    let before = ticks(pid);
    wait_until("the process works", || ticks(pid) >= before + more);
}

/// Waits until the process has ended.
pub(crate) fn wait_for_end(pid: u32) {
    wait_until("the process ends", || !runs(pid));
}
