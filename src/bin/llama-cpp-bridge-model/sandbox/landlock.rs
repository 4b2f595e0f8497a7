//! The walls of the model process. A model file is read by code that was not written for hostile
//! ones, so before the first byte of it is looked at, the process gives up what it does not need:
//! every file but the model's, of the system's own figures all but a few, and the calls in
//! [`calls`] with which a process reaches others. All of it is Linux's own, needs no privileges,
//! and is inherited by each thread that is started later.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::sandbox::seccomp;
use llama_cpp_bridge::shared::settings::ModelParams;
use llama_cpp_bridge::shared::split_files;

/// What is asked of the kernel; an older one gives what it has. From this version on a process can
/// be kept from signalling others.
const ASKED: ABI = ABI::V6;

/// What the process looks at while it works: its own memory and threads, the load of the machine,
/// its processors, and the limits of its control group. It writes nothing there.
const FIGURES: [&str; 3] = ["/proc", "/sys/devices/system", "/sys/fs/cgroup"];

/// Shuts the process in, for good.
///
/// # Errors
/// What the kernel does not have, for the log: the process can do without.
pub(crate) fn enter(load: &ModelParams) -> Result<(), String> {
    // The file with the rules of the time zone is read here once and for all.
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
        .handle_access(AccessFs::from_all(ASKED))?
        .handle_access(AccessNet::from_all(ASKED))?
        .scope(Scope::from_all(ASKED))?;
    let mut rules = rules.create()?;
    for part in split_files::parts(&load.file) {
        rules = allow(rules, &part, AccessFs::ReadFile.into())?;
    }
    for path in FIGURES {
        rules = allow(rules, path, AccessFs::ReadFile | AccessFs::ReadDir)?;
    }
    if let Some(path) = &load.state_dir {
        let keeps = AccessFs::ReadFile
            | AccessFs::ReadDir
            | AccessFs::WriteFile
            | AccessFs::Truncate
            | AccessFs::MakeReg
            | AccessFs::RemoveFile;
        rules = allow(rules, path, keeps)?;
    }
    rules.restrict_self().map(|status| status.ruleset)
}

/// Allows this of a file, or of all below a directory. One that is not there needs no rule: who
/// needs it says so better than a rule that fails.
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
