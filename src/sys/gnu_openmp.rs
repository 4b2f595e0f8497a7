// The hooks in GCC's OpenMP. They belong to the model program alone, whose openmp.rs includes this
// file: with the linker's --wrap, a library with them would lack a symbol in every other program.

use std::ffi::{c_uint, c_ulonglong, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Graphs that ask for this many threads get at most [`LIMIT`].
static LIMITED: AtomicU32 = AtomicU32::new(u32::MAX);
static LIMIT: AtomicU32 = AtomicU32::new(u32::MAX);

/// Called after each graph with the number of threads that computed it.
static AFTER_GRAPH: OnceLock<fn(u32)> = OnceLock::new();

unsafe extern "C" {
    /// The library's own `GOMP_parallel`, under the name that the linker gives it.
    fn __real_GOMP_parallel(
        work: Option<unsafe extern "C" fn(*mut c_void)>,
        data: *mut c_void,
        threads: c_uint,
        flags: c_uint,
    );
    /// How often a thread spins before it sleeps: read at each wait.
    static gomp_spin_count_var: SpinCount;
}

/// An `unsigned long long` of C that threads of C read while it is written here.
#[repr(transparent)]
struct SpinCount(AtomicU64);

const _: () = assert!(size_of::<c_ulonglong>() == size_of::<SpinCount>());

pub(super) fn limit(asked: u32, limit: u32) {
    LIMITED.store(asked, Ordering::Relaxed);
    LIMIT.store(limit, Ordering::Relaxed);
}

pub(super) fn after_graph(hook: fn(u32)) {
    let _ = AFTER_GRAPH.set(hook);
}

pub(super) fn spin(times: u32) {
    // SAFETY: the variable lives as long as the program, is as large and aligned as the type,
    // and is written by nobody else once the library has started.
    let variable = unsafe { &gomp_spin_count_var };
    variable.0.store(u64::from(times), Ordering::Relaxed);
}

/// What all calls of `GOMP_parallel` become at the link (`--wrap`): runs `work` on `threads` threads,
/// and returns when all are done.
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
    if let Some(hook) = AFTER_GRAPH.get().filter(|_| team > 0) {
        hook(team);
    }
}
