// The seams to GCC's OpenMP. They belong to the model program alone, whose openmp.rs includes this
// file: with the linker's --wrap, a library that held them would miss a symbol in every other
// program.

use std::ffi::{c_uint, c_ulonglong, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{LIMIT, LIMITED, take_sample};

unsafe extern "C" {
    /// The library's own `GOMP_parallel`, under the name that the linker gives it.
    fn __real_GOMP_parallel(
        work: Option<unsafe extern "C" fn(*mut c_void)>,
        data: *mut c_void,
        threads: c_uint,
        flags: c_uint,
    );
    /// How often a thread looks for work before it sleeps: read at each wait.
    static gomp_spin_count_var: SpinCount;
}

/// An `unsigned long long` of C that threads of C read while it is written here.
#[repr(transparent)]
struct SpinCount(AtomicU64);

const _: () = assert!(size_of::<c_ulonglong>() == size_of::<SpinCount>());

pub(super) fn spin(times: u32) {
    // SAFETY: the variable lives as long as the program, is as large and aligned as the type,
    // and is written by nobody else once the library has started.
    let variable = unsafe { &gomp_spin_count_var };
    variable.0.store(u64::from(times), Ordering::Relaxed);
}

/// What the linker has everyone call who means `GOMP_parallel` (`--wrap`): runs `work` on so
/// many threads, and returns when all are done.
///
/// # Safety
/// As for GOMP_parallel.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_GOMP_parallel(
    work: Option<unsafe extern "C" fn(*mut c_void)>,
    data: *mut c_void,
    threads: c_uint,
    flags: c_uint,
) {
    let team = if threads == LIMITED.load(Ordering::Relaxed) {
        threads.min(LIMIT.load(Ordering::Relaxed))
    } else {
        threads
    };
    // SAFETY: the caller's own arguments; whoever asks for threads must do with fewer, as
    // OpenMP may give fewer at any time.
    unsafe { __real_GOMP_parallel(work, data, team, flags) };
    if team > 0 {
        take_sample(team);
    }
}
