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
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a local that outlives the call.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
    }
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
    // SAFETY: both calls take a pointer to a local structure, which is plain data.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_DATA, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_cur.min(bytes as libc::rlim_t);
            libc::setrlimit(libc::RLIMIT_DATA, &raw const limit);
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
