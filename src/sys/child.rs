//! Children of this process: whether one has ended, and how all that it started is ended with it.

use std::io;

/// Whether a child has ended and can be reaped. It is left as it is: as long as it is not reaped
/// its number is not given to another process.
///
/// # Errors
/// Those of waitid(2).
pub fn has_ended(pid: u32) -> io::Result<bool> {
    // SAFETY: siginfo_t is plain data, zeroed is its empty value, and waitid(2) fills it.
    let (result, ended) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        let result = libc::waitid(libc::P_PID, pid, &raw mut info, options);
        (result, info.si_signo != 0)
    };
    match result {
        0 => Ok(ended),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Kills a child that is not reaped, with the process group that it leads.
pub fn kill_group(pid: u32) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: kill(2) takes plain numbers. It fails for a group that is gone.
        unsafe {
            libc::kill(-pid, libc::SIGKILL);
            libc::kill(pid, libc::SIGKILL);
        }
    }
}
