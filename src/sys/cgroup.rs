//! The control groups of Linux that this process is in, and their limits of memory: version 2, and
//! version 1 where memory is still counted by that.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where the control groups are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// How the files of a version are named.
struct Version {
    /// Where its groups begin.
    root: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// The lines of `memory.stat` that count what can be reclaimed at once.
    reclaimable: [&'static str; 2],
    /// The file with a line `oom_kill`.
    events: &'static str,
}

const SECOND: Version = Version {
    root: ROOT,
    limit: "memory.max",
    usage: "memory.current",
    reclaimable: ["inactive_file", "active_file"],
    events: "memory.events",
};

const FIRST: Version = Version {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: ["total_inactive_file", "total_active_file"],
    events: "memory.oom_control",
};

/// The group that counts the memory of this process.
pub struct Group {
    version: &'static Version,
    path: PathBuf,
}

impl Group {
    /// Looks for it; `None` where there is no such thing.
    pub fn own() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/cgroup").ok()?;
        let groups: Vec<(&str, &str)> = text.lines().filter_map(parse).collect();
        let found = |version: &'static Version, path: &str| {
            let path = Path::new(version.root).join(path.trim_start_matches('/'));
            Some(Self { version, path })
        };
        let memory =
            |(controllers, _): &&(&str, &str)| controllers.split(',').any(|c| c == "memory");
        if let Some((_, path)) = groups.iter().find(memory) {
            return found(&FIRST, path);
        }
        let (_, path) = groups
            .iter()
            .find(|(controllers, _)| controllers.is_empty())?;
        found(&SECOND, path)
    }

    /// Bytes that may still be taken, in this group and all that it lies in; `None` without any
    /// limit. Cached files count as free: they make room.
    pub fn room(&self) -> Option<u64> {
        let groups = self.path.ancestors();
        let groups = groups.take_while(|path| path.starts_with(self.version.root));
        groups.filter_map(|path| self.room_of(path)).min()
    }

    fn room_of(&self, group: &Path) -> Option<u64> {
        // Without a limit it says `max`, or in version 1 a number beyond any memory.
        let limit: u64 = read(&group.join(self.version.limit))?;
        let usage: u64 = read(&group.join(self.version.usage))?;
        let cached = self.version.reclaimable.iter();
        let cached: u64 = cached
            .filter_map(|key| entry(&group.join("memory.stat"), key))
            .sum();
        Some(limit.saturating_sub(usage.saturating_sub(cached)))
    }

    /// How many processes of this group the kernel has ended so far for want of memory.
    pub fn oom_kills(&self) -> Option<u64> {
        entry(&self.path.join(self.version.events), "oom_kill")
    }
}

/// A line `NUMBER:CONTROLLERS:PATH`.
fn parse(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once(':')?;
    rest.split_once(':')
}

/// A file that holds a number.
fn read<T: FromStr>(path: &Path) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number of a key, in a file with a key and a number per line.
pub fn entry(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines().map(str::split_whitespace);
    let mut line = lines.find(|line| line.clone().next() == Some(key))?;
    line.nth(1)?.parse().ok()
}
