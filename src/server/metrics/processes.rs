//! The memory and threads of a process; known on Linux only, from /proc.

use std::fs;

/// What a process takes.
#[derive(Clone, Copy, Default)]
pub struct Process {
    /// Bytes of memory that it has resident, shared ones included: those of a mapped model file
    /// too. Pss would share them out among their users, but makes the system walk through all pages
    /// of the model each time.
    pub resident: u64,
    pub threads: u64,
}

/// What a process uses; `None` if it is gone, or the system does not report it.
pub fn look(pid: u32) -> Option<Process> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let number = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some(Process {
        resident: number("VmRSS:")? * 1024,
        threads: number("Threads:")?,
    })
}
