// System calls by their numbers, for the tests of the sandbox, whose tests.rs includes this file: no
// program makes a call so.

use std::io;

/// Makes a call; its error's number, 0 if there is none. A process that the call starts ends at once.
pub(super) fn error_of(number: libc::c_long, arguments: [usize; 6]) -> i32 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the rows of the tests pass numbers and pointers to what outlives them; what a new process
    // shares with this one it does not touch.
    let result = unsafe {
        let result = libc::syscall(number, a, b, c, d, e, f);
        if result == 0 && number == libc::SYS_clone {
            libc::_exit(0);
        }
        result
    };
    match result {
        -1 => io::Error::last_os_error().raw_os_error().unwrap_or(0),
        _ => 0,
    }
}

/// The limit of a resource: soft and hard.
pub(super) fn limit_of(resource: libc::c_int) -> (u64, u64) {
    let mut limit = [0u64; 2];
    let pointer = limit.as_mut_ptr() as usize;
    let read = error_of(libc::SYS_prlimit64, [0, resource as usize, 0, pointer, 0, 0]);
    assert_eq!(read, 0);
    (limit[0], limit[1])
}
