//! Memory: how much there is to be had, and whether the kernel ran out of it.

use std::path::Path;

use crate::sys::cgroup::{self, Group};

/// Where the host reports its memory.
const HOST: &str = "/proc/meminfo";

/// What the host counts of its own doing.
const COUNTERS: &str = "/proc/vmstat";

/// Memory that a process can take.
#[derive(Clone, Copy)]
pub struct Available {
    /// Bytes.
    pub bytes: u64,
    /// Whether it is a control group that bounds it, and not the host.
    pub by_group: bool,
}

impl Available {
    /// What is available now, without swapping anything out; cached files count as available.
    /// `None` where the system does not report it.
    pub fn now() -> Option<Self> {
        let kilobytes = cgroup::entry(Path::new(HOST), "MemAvailable:");
        let host = kilobytes.map(|kilobytes| Self {
            bytes: kilobytes * 1024,
            by_group: false,
        });
        let group = Group::own().and_then(|group| group.room());
        let group = group.map(|bytes| Self {
            bytes,
            by_group: true,
        });
        host.into_iter().chain(group).min_by_key(|it| it.bytes)
    }

    /// Where that is, for a message.
    pub fn place(&self) -> &'static str {
        if self.by_group {
            "left by the limit of its control group"
        } else {
            "available"
        }
    }
}

/// How many processes the kernel had ended for want of memory at a moment.
#[derive(Clone, Copy)]
pub struct Kills {
    /// In the control group.
    group: Option<u64>,
    /// On the host.
    host: Option<u64>,
}

impl Kills {
    /// Until now.
    pub fn now() -> Self {
        Self {
            group: Group::own().and_then(|group| group.oom_kills()),
            host: cgroup::entry(Path::new(COUNTERS), "oom_kill"),
        }
    }

    /// What is known of a process that was killed since this moment, and not by us.
    pub fn cause(&self) -> Option<&'static str> {
        let now = Self::now();
        match (self.group, now.group) {
            (Some(before), Some(now)) if now > before => {
                return Some("by the OOM killer");
            }
            // Nobody in the group was killed for that.
            (Some(_), Some(_)) => return None,
            _ => (),
        }
        let grew = self
            .host
            .zip(now.host)
            .is_some_and(|(before, now)| now > before);
        grew.then_some("probably by the OOM killer")
    }
}

/// Bytes as people read them.
pub fn shown(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // 1023.95 would be shown as 1024.0 of its unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}
