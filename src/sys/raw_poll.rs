//! poll(2) as it is.

use std::io;

/// poll(2), with a time in milliseconds; -1 is for ever.
///
/// # Errors
/// Those of poll(2).
pub(super) fn poll_raw(fds: &mut [libc::pollfd], milliseconds: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of the slice.
    let count = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, milliseconds) };
    if count < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
