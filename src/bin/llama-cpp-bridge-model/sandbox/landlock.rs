//! The sandbox of the model process. A model file is read by code that was not written for hostile
//! ones, so before the first byte of it is read, the process gives up what it does not need: all files
//! but the model's, saved states and some of the system's figures, and the system calls in [`seccomp`]
//! by which a process reaches others. All of this is Linux's own, needs no privileges, and is inherited
//! by each thread that is started later.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::sandbox::seccomp;
use llama_cpp_bridge::shared::settings::{ModelParams, StateFiles};
use llama_cpp_bridge::shared::split_files;

/// What is requested of the kernel; an older one does what it can. Since this version a process can
/// be kept from sending signals to others.
const REQUESTED: ABI = ABI::V6;

/// What the process reads while it works: its own memory and threads, the load of the machine, its
/// processors, and the limits of its control group.
const FIGURES: [&str; 3] = ["/proc", "/sys/devices/system", "/sys/fs/cgroup"];

/// Enters the sandbox, for good.
///
/// # Errors
/// What the kernel does not support, for the log: the process can do without.
pub fn enter(load: &ModelParams) -> Result<(), String> {
    // The file with the rules of the time zone is read here, once.
    #[cfg(feature = "chat-template")]
    llama_cpp_bridge::sys::time::local_time("%Z");
    let files = match restrict_files(load) {
        Ok(RulesetStatus::NotEnforced) => Err("this kernel has no Landlock".to_string()),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("Landlock: {error}")),
    };
    let calls = seccomp::forbid();
    let lacking: Vec<String> = [files, calls].into_iter().filter_map(Result::err).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(lacking.join("; "))
}

/// Leaves the process only the files of the model and of saved states. Network and signals to
/// others go with them, where the kernel knows how.
fn restrict_files(load: &ModelParams) -> Result<RulesetStatus, RulesetError> {
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(REQUESTED))?
        .handle_access(AccessNet::from_all(REQUESTED))?
        .scope(Scope::from_all(REQUESTED))?;
    let mut rules = rules.create()?;
    for part in split_files::parts(&load.file) {
        rules = allow(rules, &part, AccessFs::ReadFile.into())?;
    }
    for path in FIGURES {
        rules = allow(rules, path, AccessFs::ReadFile | AccessFs::ReadDir)?;
    }
    if let Some(states) = &load.states {
        rules = allow_states(rules, states)?;
    }
    rules.restrict_self().map(|status| status.ruleset)
}

/// Allows what SAVE and RESTORE need: to read the finished states of the model, and to write to a
/// file that the bridge has created for it. Nothing can be created, removed or listed.
fn allow_states(
    rules: RulesetCreated,
    states: &StateFiles,
) -> Result<RulesetCreated, RulesetError> {
    let rules = allow(rules, &states.directory, AccessFs::ReadFile.into())?;
    let writes = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate;
    allow(rules, &states.saving().to_string_lossy(), writes)
}

/// Allows access to a file, or to all files below a directory. One that does not exist needs no rule:
/// whoever opens it has the better error message.
fn allow(
    rules: RulesetCreated,
    path: &str,
    what: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    match PathFd::new(path) {
        Ok(file) => rules.add_rule(PathBeneath::new(file, what)),
        Err(_) => Ok(rules),
    }
}
