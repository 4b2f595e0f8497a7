//! How far the kernel can confine the model process. The bridge says it once, at its start and in
//! INFO; the model process enters the sandbox, and says what did not go as the kernel promised.

use miniserde::Serialize;

#[cfg(target_os = "linux")]
use crate::sys::kernel;

/// What the sandbox of the model process amounts to here.
#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    /// How much of it there is.
    pub extent: Extent,
    /// What the kernel lacks, a short text for each.
    pub lacks: Vec<String>,
}

/// How much there is of the sandbox.
#[derive(Serialize, Clone, Copy, Debug, PartialEq)]
pub enum Extent {
    /// All that this version knows to ask for.
    #[serde(rename = "full")]
    Full,
    /// What the kernel has of it.
    #[serde(rename = "partial")]
    Partial,
    /// Nothing: it is not wanted, or this is not Linux.
    #[serde(rename = "off")]
    Off,
}

/// What Landlock cannot restrict before a version of its interface, and in which Linux that came.
/// The second version, of Linux 5.19, is not among them: it permits what the first denied, to move
/// files between directories.
#[cfg(target_os = "linux")]
const LANDLOCK_GAPS: [(u32, &str); 4] = [
    (3, "Landlock for truncation (Linux 6.2)"),
    (4, "Landlock for TCP (Linux 6.7)"),
    (5, "Landlock for devices (Linux 6.10)"),
    (6, "Landlock for signals and abstract sockets (Linux 6.12)"),
];

impl Sandbox {
    /// Asks the kernel, if a sandbox is `wanted`.
    pub fn here(wanted: bool) -> Self {
        #[cfg(target_os = "linux")]
        if wanted {
            let lacks = lacks(kernel::landlock_version(), kernel::has_seccomp_filter());
            let extent = match lacks.is_empty() {
                true => Extent::Full,
                false => Extent::Partial,
            };
            return Self { extent, lacks };
        }
        let _ = wanted;
        Self {
            extent: Extent::Off,
            lacks: Vec::new(),
        }
    }

    /// The same with what a model process could not enter of it.
    pub fn lacking_also(&self, more: &[String]) -> Self {
        let mut sandbox = self.clone();
        if !more.is_empty() {
            sandbox.extent = Extent::Partial;
            sandbox.lacks.extend(more.iter().cloned());
        }
        sandbox
    }

    /// What whoever runs the bridge should know; `None` if all is there.
    pub fn notice(&self) -> Option<String> {
        let lacks = self.lacks.join(", ");
        (self.extent == Extent::Partial)
            .then(|| format!("the sandbox of the model process is incomplete: no {lacks}"))
    }
}

#[cfg(target_os = "linux")]
fn lacks(landlock: Option<u32>, seccomp: bool) -> Vec<String> {
    let mut lacks: Vec<String> = match landlock {
        None => vec!["Landlock (Linux 5.13)".to_string()],
        Some(version) => LANDLOCK_GAPS
            .iter()
            .filter(|(since, _)| version < *since)
            .map(|(_, gap)| (*gap).to_string())
            .collect(),
    };
    if !seccomp {
        lacks.push("seccomp filters".to_string());
    }
    lacks
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{Extent, Sandbox, lacks};

    #[test]
    fn older_kernels_lack_more() {
        let counts = [None, Some(1), Some(2), Some(3), Some(4), Some(5), Some(6)];
        let counts = counts.map(|version| lacks(version, true).len());
        assert_eq!(counts, [1, 4, 4, 3, 2, 1, 0]);
        assert_eq!(lacks(Some(99), true), [""; 0]);
        // Debian 12 has Linux 6.1.
        assert_eq!(
            lacks(Some(2), true)[0],
            "Landlock for truncation (Linux 6.2)"
        );
        assert_eq!(
            lacks(None, false),
            ["Landlock (Linux 5.13)", "seccomp filters"]
        );
    }

    #[test]
    fn what_a_process_could_not_enter_is_lacking_too() {
        let full = Sandbox {
            extent: Extent::Full,
            lacks: Vec::new(),
        };
        assert_eq!(full.lacking_also(&[]), full);
        let partial = full.lacking_also(&["Landlock: no".to_string()]);
        assert_eq!(partial.extent, Extent::Partial);
        assert_eq!(partial.lacks, ["Landlock: no"]);
    }

    #[test]
    fn what_is_not_wanted_is_off_and_lacks_nothing() {
        let off = Sandbox::here(false);
        assert_eq!((off.extent, off.lacks.len()), (Extent::Off, 0));
        assert_eq!(off.notice(), None);
    }
}
