//! What the kernel offers to confine a process with, asked without any effect. Linux only.

/// The version of Landlock's interface; `None` where the kernel was built or started without it, is
/// older than it, or may not be asked.
pub fn landlock_version() -> Option<u32> {
    /// Asks for the version in place of creating a set of rules.
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call takes no structure, and makes no descriptor.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).ok().filter(|version| *version > 0)
}

/// Whether system calls can be filtered, those of all threads at once.
pub fn has_seccomp_filter() -> bool {
    // SAFETY: there is no program at this address, which the kernel finds out, as it does for each.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            std::ptr::null::<libc::c_void>(),
        )
    };
    // A kernel that does not know the call or the flag says so before it looks for the program.
    result == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}
