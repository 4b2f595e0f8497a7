//! Users and groups of this host, by their names.

use std::ffi::{CStr, CString};
use std::io;

/// The number of a group of this host, by its name; `None` if there is no such group.
///
/// # Errors
/// Those of getgrnam_r(3), when the group database cannot be read.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    let mut found: *mut libc::group = std::ptr::null_mut();
    // SAFETY: group is plain data, zeroed is its empty value.
    let mut group: libc::group = unsafe { std::mem::zeroed() };
    look_up(name, |name, buffer| {
        // SAFETY: the buffer's length is its own; all pointers outlive the call.
        unsafe {
            let (start, length) = (buffer.as_mut_ptr(), buffer.len());
            libc::getgrnam_r(name.as_ptr(), &raw mut group, start, length, &raw mut found)
        }
    })?;
    Ok((!found.is_null()).then_some(group.gr_gid))
}

/// The number of a user of this host, by its name; `None` if there is no such user.
///
/// # Errors
/// Those of getpwnam_r(3), when the user database cannot be read.
pub fn user_id(name: &str) -> io::Result<Option<u32>> {
    let mut found: *mut libc::passwd = std::ptr::null_mut();
    // SAFETY: passwd is plain data, zeroed is its empty value.
    let mut user: libc::passwd = unsafe { std::mem::zeroed() };
    look_up(name, |name, buffer| {
        // SAFETY: the buffer's length is its own; all pointers outlive the call.
        unsafe {
            let (start, length) = (buffer.as_mut_ptr(), buffer.len());
            libc::getpwnam_r(name.as_ptr(), &raw mut user, start, length, &raw mut found)
        }
    })?;
    Ok((!found.is_null()).then_some(user.pw_uid))
}

/// Looks a name up by a call that fails with ERANGE when it needs a larger buffer. A name that
/// cannot be one is not looked up.
fn look_up(
    name: &str,
    mut call: impl FnMut(&CStr, &mut [libc::c_char]) -> libc::c_int,
) -> io::Result<()> {
    let Ok(name) = CString::new(name) else {
        return Ok(());
    };
    let mut buffer = vec![0; 1024];
    loop {
        match call(&name, &mut buffer) {
            0 => return Ok(()),
            libc::ERANGE if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}
