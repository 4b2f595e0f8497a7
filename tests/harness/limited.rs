//! Bridges that get little memory, for requests that llama.cpp could only answer with all of it.

use std::path::Path;
use std::process::Command;

use super::{Bridge, Directory, program};

/// What a process may have of address space, in KiB: some ten times what a tiny model needs.
const ADDRESS_SPACE: &str = "3000000";

impl Bridge {
    /// As [`Bridge::with_model`], so that a fault ends the model process and not the machine.
    pub(crate) fn with_little_memory(home: &Directory, model: &Path) -> Bridge {
        let script = format!("ulimit -v {ADDRESS_SPACE} && exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command
            .args(["-c", &script])
            .arg(program())
            .args(["--threads", "1", "--temp", "0", "-n", "40", "--socket"])
            .arg(home.socket())
            .arg("--model")
            .arg(model);
        Bridge::start_command(&mut command, home.socket())
    }
}
