//! What a process can set of itself, and ask of itself: limits, privileges, and what ends it.

#[cfg(target_os = "linux")]
use std::ffi::{CStr, OsStr};
#[cfg(target_os = "linux")]
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Sets the mask of the permissions that new files do not get; returns the one before.
pub fn set_umask(mask: u32) -> u32 {
    // SAFETY: umask(2) cannot fail and touches no memory.
    #[allow(clippy::unnecessary_cast)]
    unsafe {
        libc::umask(mask as libc::mode_t) as u32
    }
}

/// Makes this process end with the one that started it, however that one ends, go by a name of its
/// own in lists of processes, and leave no core file: one would be as large as the model. The
/// first two work on Linux only; elsewhere it sees the end of the socket.
pub fn live_and_die_with_parent() {
    #[cfg(target_os = "linux")]
    // SAFETY: both calls take plain numbers or a pointer to static text.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::prctl(libc::PR_SET_NAME, c"llama-cpp-model".as_ptr());
    }
    leave_no_core();
}

/// Makes this process, and those that it starts, leave no core file.
pub fn leave_no_core() {
    limit(libc::RLIMIT_CORE, 0);
}

/// Keeps this process and all that it might start from ever having more rights, as by a program
/// that is set-user-ID. Linux only.
pub fn give_up_new_privileges() {
    // SAFETY: prctl(2) takes plain numbers here.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    }
}

/// Has this process get no further huge pages; those that it has stay. A buffer of which only a
/// part is used would take more memory by them. Linux only.
pub fn stop_huge_pages() {
    // SAFETY: prctl(2) takes plain numbers here.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    }
}

/// Bytes of memory that this process has to itself, as RLIMIT_DATA counts them; `None` where the
/// system does not report it.
pub fn data_size() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split_whitespace().nth(5)?.parse().ok()?;
    Some(pages * configured(libc::_SC_PAGESIZE)?)
}

/// A value of sysconf(3); `None` where the system has none.
pub fn configured(name: libc::c_int) -> Option<u64> {
    // SAFETY: sysconf(3) takes and returns a number.
    let number = unsafe { libc::sysconf(name) };
    u64::try_from(number).ok()
}

/// Limits the memory that this process has to itself to this many bytes, and to no more than it
/// could have before. Beyond that, allocations fail.
pub fn limit_data(bytes: u64) {
    limit(libc::RLIMIT_DATA, bytes);
}

/// Limits the files that this process writes to this many bytes each. Beyond that, writing fails with
/// EFBIG, as the signal that would kill the process is ignored.
pub fn limit_files(bytes: u64) {
    // SAFETY: to ignore a signal runs no handler and touches no memory.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    limit(libc::RLIMIT_FSIZE, bytes);
}

/// Bytes of the stack that a thread gets: the limit for that of the first one; `None` if there is none.
pub fn stack_size() -> Option<u64> {
    // SAFETY: the structure is plain data, which the call fills.
    let size = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        match libc::getrlimit(libc::RLIMIT_STACK, &raw mut limit) {
            0 => limit.rlim_cur,
            _ => libc::RLIM_INFINITY,
        }
    };
    (size != libc::RLIM_INFINITY).then_some(size)
}

/// Limits the descriptors of this process to numbers below this one.
pub fn limit_descriptors(count: u64) {
    limit(libc::RLIMIT_NOFILE, count);
}

/// How many descriptors this process has open, and the highest of them; as far as it can be seen.
pub fn open_descriptors() -> (u64, u64) {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.fold((0, 0), |(count, highest), number: u64| {
        (count + 1, highest.max(number))
    })
}

/// The number of a resource, whose type differs between C libraries.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
type Resource = libc::c_int;

/// Sets a limit of this process that it cannot raise again, to at most what it could have before.
fn limit(resource: Resource, most: u64) {
    // SAFETY: both calls take a pointer to a local structure, which is plain data.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(resource, &raw mut limit) == 0 {
            limit.rlim_max = limit.rlim_max.min(most as libc::rlim_t);
            limit.rlim_cur = limit.rlim_cur.min(limit.rlim_max);
            libc::setrlimit(resource, &raw const limit);
        }
    }
}

/// Keeps of the capabilities of root those by which it opens and replaces files of others, and locks
/// memory; other users have none. Linux only.
#[cfg(target_os = "linux")]
pub fn drop_capabilities() {
    /// Version 3 of the two structures: a header, and 64 bits each of three sets, in halves.
    const VERSION: u32 = 0x2008_0522;
    const CAP_DAC_OVERRIDE: u32 = 1;
    const CAP_DAC_READ_SEARCH: u32 = 2;
    const CAP_FOWNER: u32 = 3;
    const CAP_IPC_LOCK: u32 = 14;
    let kept = [
        CAP_DAC_OVERRIDE,
        CAP_DAC_READ_SEARCH,
        CAP_FOWNER,
        CAP_IPC_LOCK,
    ];
    let kept = kept.iter().fold(0u32, |set, bit| set | 1 << bit);
    let header = [VERSION, 0];
    // Effective, permitted and inheritable: first of the capabilities up to 31, then of the others.
    let mut sets = [[0u32; 3]; 2];
    // SAFETY: both calls take the two structures, which are arrays of numbers of 32 bits.
    unsafe {
        if libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) == 0 {
            let [effective, permitted, _] = sets[0];
            let sets = [[effective & kept, permitted & kept, 0], [0; 3]];
            libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr());
        }
    }
}

/// The effective user of this process.
pub fn user() -> u32 {
    // SAFETY: geteuid(2) cannot fail and touches no memory.
    unsafe { libc::geteuid() }
}

/// The path that this program was started by, as execve(2) was given it; known on Linux only.
pub fn executed_file() -> Option<PathBuf> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: getauxval(3) takes a number, and gives the address of a text that ends with NUL
        // and lives as long as the process, or 0.
        let path = unsafe {
            match libc::getauxval(libc::AT_EXECFN) {
                0 => return None,
                address => CStr::from_ptr(address as *const libc::c_char),
            }
        };
        Some(PathBuf::from(OsStr::from_bytes(path.to_bytes())))
    }
    #[cfg(not(target_os = "linux"))]
    None
}
