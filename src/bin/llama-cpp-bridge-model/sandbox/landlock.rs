//! The files that the model process keeps, by rules of Landlock. Network and signals to others go with
//! the other files, where the kernel knows how.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, RestrictSelfAttr, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use llama_cpp_bridge::shared::settings::ModelParams;
use llama_cpp_bridge::shared::split_files;
use llama_cpp_bridge::sys::kernel;

/// What is requested of the kernel; an older one does what it can. Since this version a process can
/// be kept from sending signals to others.
const REQUESTED: ABI = ABI::V6;

/// Since this version threads can be restricted that are there already.
const ALL_THREADS: ABI = ABI::V8;

/// What the process reads while it works: its own memory and threads, the load of the machine, its
/// processors, and the limits of its control group.
const FIGURES: [&str; 3] = ["/proc", "/sys/devices/system", "/sys/fs/cgroup"];

/// How the names of devices in /dev begin that drivers work with, and of what they share memory in.
const DEVICES: [&str; 14] = [
    "dri", "kfd", "nvidia", "nvhost", "nvmap", "nvgpu", "host1x", "kgsl", "dxg", "mali", "udmabuf",
    "dma_heap", "null", "shm",
];

/// The environment variables that name a folder where a driver keeps what it has compiled, and
/// the usual folders for that, in the home and in its cache.
const CACHE_VARIABLES: [&str; 3] = [
    "CUDA_CACHE_PATH",
    "MESA_SHADER_CACHE_DIR",
    "__GL_SHADER_DISK_CACHE_PATH",
];
const CACHES: [&str; 4] = [
    "mesa_shader_cache",
    "mesa_shader_cache_db",
    "radv_builtin_shaders",
    "nvidia",
];

/// Leaves the process only the files of the model and of saved states.
///
/// # Errors
/// What of it failed.
pub(super) fn restrict(load: &ModelParams) -> Result<(), String> {
    let rules = || {
        let mut rules = everything()?;
        for part in split_files::parts(&load.file) {
            rules = allow(rules, &part, AccessFs::ReadFile.into())?;
        }
        for path in FIGURES {
            rules = allow(rules, path, AccessFs::ReadFile | AccessFs::ReadDir)?;
        }
        allow_states(rules, load)
    };
    enforce(rules(), REQUESTED)
}

/// Leaves the process all files to read, since a driver loads libraries and settings at any time;
/// those of saved states, its devices, and its own caches to write. Threads that the driver has
/// started already are restricted since Linux 7.0.
///
/// # Errors
/// What of it failed.
pub(super) fn restrict_writing(load: &ModelParams) -> Result<(), String> {
    let rules = || {
        let reads = AccessFs::ReadFile | AccessFs::ReadDir;
        let mut rules = allow(everything()?, "/", reads)?;
        let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
        // The names of threads are written there.
        rules = allow(rules, "/proc/self", AccessFs::WriteFile.into())?;
        let keeps = kept() | AccessFs::MakeDir | AccessFs::RemoveDir | AccessFs::Refer;
        for path in devices() {
            let keeps = match path.is_dir() {
                true => device | kept(),
                false => device,
            };
            rules = allow(rules, &path, keeps)?;
        }
        for path in caches() {
            rules = allow(rules, &path, keeps)?;
        }
        allow_states(rules, load)?.all_threads(true)
    };
    enforce(rules(), ALL_THREADS)
}

/// Rules that deny everything.
fn everything() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(REQUESTED))?
        .handle_access(AccessNet::from_all(REQUESTED))?
        .scope(Scope::from_all(REQUESTED))?
        .create()
}

/// Enforces rules, all of which the kernel knows since the version `all`.
fn enforce(rules: Result<RulesetCreated, RulesetError>, all: ABI) -> Result<(), String> {
    let status = rules.and_then(RulesetCreated::restrict_self);
    let expected = kernel::landlock_version() >= Some(all as u32);
    match status.map_err(|error| error.to_string())?.ruleset {
        RulesetStatus::NotEnforced => Err("not enforced".to_string()),
        RulesetStatus::PartiallyEnforced if expected => Err("enforced in part only".to_string()),
        // What an older kernel lacks the bridge has said.
        RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
    }
}

/// What is done with files that the process itself keeps.
fn kept() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::RemoveFile
}

/// Allows what SAVE and RESTORE need: to read the finished states of the model, and to write to a
/// file that the bridge has created for it. Nothing can be created, removed or listed.
fn allow_states(rules: RulesetCreated, load: &ModelParams) -> Result<RulesetCreated, RulesetError> {
    let Some(states) = &load.states else {
        return Ok(rules);
    };
    let rules = allow(rules, &states.directory, AccessFs::ReadFile.into())?;
    let writes = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate;
    allow(rules, states.saving(), writes)
}

/// Allows access to a file, or to all files below a directory. One that does not exist needs no rule:
/// whoever opens it has the better error message.
fn allow(
    rules: RulesetCreated,
    path: impl AsRef<Path>,
    what: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    match PathFd::new(path) {
        Ok(file) => rules.add_rule(PathBeneath::new(file, what)),
        Err(_) => Ok(rules),
    }
}

fn devices() -> Vec<PathBuf> {
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let known = entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        DEVICES.iter().any(|device| name.starts_with(device))
    });
    known.map(|entry| entry.path()).collect()
}

fn caches() -> Vec<PathBuf> {
    let folder = |name| env::var_os(name).map(PathBuf::from);
    let mut caches: Vec<PathBuf> = CACHE_VARIABLES.into_iter().filter_map(folder).collect();
    let home = folder("HOME");
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache")));
    let usual = |cache: PathBuf| CACHES.map(|name| cache.join(name));
    caches.extend(cache.map(usual).into_iter().flatten());
    caches.extend(home.map(|home| home.join(".nv")));
    caches
}
