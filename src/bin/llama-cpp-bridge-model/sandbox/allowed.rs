//! The system calls that the model process keeps on a processor: what llama.cpp, OpenMP, the C library
//! and the model program itself make once the sandbox is entered. All others fail with EPERM.
//!
//! The list is meant for every C library that the program is built with, so it has the older and the
//! newer call of the same purpose; calls that can do no more than one that is in the list need no other
//! reason. Which files can be opened is Landlock's business.

use std::env;
use std::os::unix::process::parent_id;
use std::process;

use libc::{c_int, c_long};

use super::filter::{
    ADVICE_END, Calls, NAMELESS, OPENING, SOCKET_TYPE, below, has, is, is_code, is_not,
    is_not_null, is_null,
};
use super::numbers::{
    FACCESSAT2, FUTEX_REQUEUE, FUTEX_WAIT, FUTEX_WAITV, FUTEX_WAKE, MSEAL, RSEQ_SLICE_YIELD,
};

/// With any arguments.
#[rustfmt::skip]
const ALLOWED: &[c_long] = &[
    // What is open: files, the socket to the bridge, standard error. No descriptors come with
    // recvfrom(2); sendto(2) is below.
    libc::SYS_read, libc::SYS_readv, libc::SYS_pread64, libc::SYS_preadv, libc::SYS_write,
    libc::SYS_writev, libc::SYS_pwrite64, libc::SYS_pwritev, libc::SYS_lseek, libc::SYS_fstat,
    libc::SYS_recvfrom, libc::SYS_ppoll, libc::SYS_close, libc::SYS_dup,
    libc::SYS_dup3, libc::SYS_fadvise64, libc::SYS_readahead, libc::SYS_getdents64,
    libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_ftruncate,
    // Files by their names; openat(2) is below.
    libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_faccessat, FACCESSAT2,
    // Its own memory. What maps it is below.
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mlock, libc::SYS_mlock2,
    libc::SYS_munlock, libc::SYS_mincore, MSEAL,
    // Its own threads; clone(2) is below.
    libc::SYS_futex, FUTEX_WAITV, FUTEX_WAKE, FUTEX_WAIT, FUTEX_REQUEUE, libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq, RSEQ_SLICE_YIELD, libc::SYS_membarrier, libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity, libc::SYS_getcpu, libc::SYS_exit, libc::SYS_exit_group,
    // Signals to itself, and time; how others are signalled is below.
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack, libc::SYS_restart_syscall, libc::SYS_setitimer, libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep, libc::SYS_clock_gettime, libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    // What it is, and what the machine is.
    libc::SYS_getpid, libc::SYS_gettid, libc::SYS_getppid, libc::SYS_getuid, libc::SYS_geteuid,
    libc::SYS_getgid, libc::SYS_getegid, libc::SYS_getrusage, libc::SYS_sysinfo, libc::SYS_uname,
    libc::SYS_getrandom,
];

/// The older calls of the same purposes.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_HERE: &[c_long] = &[
    libc::SYS_poll, libc::SYS_dup2, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access,
    libc::SYS_alarm, libc::SYS_time,
    libc::SYS_getrlimit,
];
#[cfg(target_arch = "aarch64")]
const ALLOWED_HERE: &[c_long] = &[libc::SYS_getrlimit];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ALLOWED_HERE: &[c_long] = &[];

/// What prctl(2) may be asked: names of threads and of memory, no further huge pages, no new
/// privileges, and how long the vectors of an ARM processor are.
const OPTIONS: [c_int; 5] = [
    libc::PR_SET_NAME,
    libc::PR_SET_VMA,
    libc::PR_SET_THP_DISABLE,
    libc::PR_SET_NO_NEW_PRIVS,
    PR_SVE_GET_VL,
];
const PR_SVE_GET_VL: c_int = 51;

/// What fcntl(2) may be asked. Others could name a process that gets signals.
const COMMANDS: [c_int; 6] = [
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
];

/// What a new thread shares with the others, and what would make it more than a thread: a process
/// of its own, and each kind of namespace.
const THREAD: c_int = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
const MORE: c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_PTRACE
    | libc::CLONE_PIDFD
    | libc::CLONE_VFORK;

/// The environment variables by which a user has OpenMP bind its threads to processors.
const BINDING: [&str; 3] = ["OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"];

/// Allows the calls.
///
/// # Errors
/// A sentence: what is not supported here.
pub(super) fn keep() -> Result<(), String> {
    let mut calls = Calls::default();
    calls.any(ALLOWED);
    calls.any(ALLOWED_HERE);
    opening(&mut calls);
    memory_and_threads(&mut calls);
    own_process(&mut calls);
    calls.allow()
}

/// Denies what is needed no longer once a model is loaded: to set limits, and to add filters.
///
/// # Errors
/// A sentence: what is not supported here.
pub(super) fn settle() -> Result<(), String> {
    let mut calls = Calls::default();
    calls.when(libc::SYS_prlimit64, [is_not_null(2)]);
    calls.any(&[libc::SYS_seccomp]);
    calls.deny()
}

/// Files, and what a captured standard error takes.
fn opening(calls: &mut Calls) {
    // Before Linux 6.2 a file that may only be read can be emptied by opening it so.
    for (call, flags) in OPENING {
        calls.when(*call, [has(*flags, libc::O_TRUNC | NAMELESS, 0)]);
        for writing in [libc::O_WRONLY, libc::O_RDWR] {
            calls.when(*call, [has(*flags, libc::O_ACCMODE | NAMELESS, writing)]);
        }
    }
    // A stream socket's call cannot name another address. What is sent out of band is no part of the
    // stream, and so of no limit on it.
    calls.when(libc::SYS_sendto, [has(3, !libc::MSG_NOSIGNAL, 0)]);
    for command in COMMANDS {
        calls.when(libc::SYS_fcntl, [is(1, command)]);
    }
    for code in [libc::FIONBIO, libc::FIOCLEX] {
        calls.when(libc::SYS_ioctl, [is_code(1, code as libc::c_ulong)]);
    }
    // A pair that is not a stream could send to any address.
    let stream = has(1, SOCKET_TYPE, libc::SOCK_STREAM);
    calls.when(libc::SYS_socketpair, [is(0, libc::AF_UNIX), stream]);
}

fn memory_and_threads(calls: &mut Calls) {
    let data = || has(2, libc::PROT_EXEC, 0);
    calls.when(libc::SYS_mprotect, [data()]);
    // The limit of memory counts neither shared memory without a file nor what grows like a stack.
    let private = has(3, libc::MAP_TYPE | libc::MAP_GROWSDOWN, libc::MAP_PRIVATE);
    calls.when(libc::SYS_mmap, [data(), private]);
    let of_a_file = has(3, libc::MAP_ANONYMOUS | libc::MAP_GROWSDOWN, 0);
    calls.when(libc::SYS_mmap, [data(), of_a_file]);
    calls.when(libc::SYS_madvise, [below(2, ADVICE_END)]);
    calls.when(libc::SYS_clone, [has(0, THREAD | MORE, THREAD)]);
    // The kernel cannot be told to let it bind its own threads only, whose numbers nobody knows yet;
    // the bridge at least is not among them.
    if BINDING.iter().any(|name| env::var_os(name).is_some()) {
        let parent = parent_id() as c_int;
        calls.when(libc::SYS_sched_setaffinity, [is_not(0, parent)]);
    }
    // Permission to use the tiles of Intel's AMX.
    #[cfg(target_arch = "x86_64")]
    calls.when(libc::SYS_arch_prctl, [is(0, ARCH_REQ_XCOMP_PERM)]);
}

#[cfg(target_arch = "x86_64")]
const ARCH_REQ_XCOMP_PERM: c_int = 0x1023;

/// Signals to the process itself, as abort(3) sends one; its limits; and its filters, until
/// [`settle`] takes both away.
fn own_process(calls: &mut Calls) {
    let own = process::id() as c_int;
    calls.when(libc::SYS_kill, [is(0, own)]);
    calls.when(libc::SYS_tgkill, [is(0, own)]);
    for option in OPTIONS {
        calls.when(libc::SYS_prctl, [is(0, option)]);
    }
    calls.when(libc::SYS_prlimit64, [is(0, 0), is_null(2)]);
    let data = is(1, libc::RLIMIT_DATA as c_int);
    calls.when(libc::SYS_prlimit64, [is(0, 0), data]);
    let filter = is(0, libc::SECCOMP_SET_MODE_FILTER as c_int);
    let all_threads = is(1, libc::SECCOMP_FILTER_FLAG_TSYNC as c_int);
    calls.when(libc::SYS_seccomp, [filter, all_threads]);
}
