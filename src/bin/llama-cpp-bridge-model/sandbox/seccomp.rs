//! The system calls that the model process gives up. This is a list of what is forbidden, not of what
//! is allowed: llama.cpp, OpenMP and the C library make other calls with each version and on each
//! processor, and a call that is missing in a list of allowed ones breaks a model that worked. What
//! this list can miss is a new call that reaches out of the process; files are Landlock's business.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::process;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

/// Calls by which a process reaches others, changes the system or its own rights, or uses a
/// part of the kernel that often had bugs. Reading and writing sockets stays allowed, as the link to
/// the bridge is one.
#[rustfmt::skip]
const FORBIDDEN: &[c_long] = &[
    // Other programs and hosts.
    libc::SYS_socket, libc::SYS_connect, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept,
    libc::SYS_accept4, libc::SYS_sendmsg, libc::SYS_sendmmsg, libc::SYS_recvmsg,
    libc::SYS_recvmmsg, libc::SYS_execve, libc::SYS_execveat,
    // Other processes.
    libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_kcmp,
    libc::SYS_pidfd_open, libc::SYS_pidfd_getfd, libc::SYS_pidfd_send_signal, libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo, libc::SYS_process_madvise,
    // Modes and owners of files, which Landlock does not restrict.
    libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchown, libc::SYS_fchownat,
    libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr, libc::SYS_removexattr,
    libc::SYS_lremovexattr, libc::SYS_fremovexattr, libc::SYS_utimensat,
    libc::SYS_open_by_handle_at, libc::SYS_name_to_handle_at,
    // Its own rights.
    libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setreuid, libc::SYS_setregid,
    libc::SYS_setresuid, libc::SYS_setresgid, libc::SYS_setgroups, libc::SYS_setfsuid,
    libc::SYS_setfsgid, libc::SYS_capset, libc::SYS_unshare, libc::SYS_setns, libc::SYS_chroot,
    libc::SYS_pivot_root, libc::SYS_personality,
    // The system.
    libc::SYS_mount, libc::SYS_umount2, libc::SYS_move_mount, libc::SYS_open_tree,
    libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_fspick,
    libc::SYS_mount_setattr, libc::SYS_swapon, libc::SYS_swapoff, libc::SYS_reboot,
    libc::SYS_kexec_load, libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module,
    libc::SYS_acct, libc::SYS_quotactl, libc::SYS_settimeofday, libc::SYS_clock_settime,
    libc::SYS_clock_adjtime, libc::SYS_adjtimex, libc::SYS_sethostname, libc::SYS_setdomainname,
    libc::SYS_syslog, libc::SYS_vhangup,
    // The kernel's own languages and queues; calls through io_uring are not filtered at all.
    libc::SYS_bpf, libc::SYS_perf_event_open, libc::SYS_userfaultfd, libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_keyctl, libc::SYS_add_key,
    libc::SYS_request_key, libc::SYS_fanotify_init,
];

/// Those that only this architecture still has.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const FORBIDDEN_HERE: &[c_long] = &[
    libc::SYS_fork, libc::SYS_vfork, libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown,
    libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat, libc::SYS_iopl, libc::SYS_ioperm,
    libc::SYS_modify_ldt, libc::SYS_kexec_file_load,
];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_HERE: &[c_long] = &[];

/// The bit of the x32 ABI in the number of a call: the same calls by other numbers, which the list
/// would miss.
#[cfg(target_arch = "x86_64")]
const X32: c_long = 0x4000_0000;

/// The calls of x32 that have numbers of their own, execve(2) and ptrace(2) among them.
#[cfg(target_arch = "x86_64")]
const OWN_OF_X32: std::ops::RangeInclusive<c_long> = 512..=547;

/// Forbids the calls, which then fail with EPERM, in all threads: callers report what failed, and
/// abort(3) still works.
///
/// # Errors
/// What is not supported here, for the log.
pub(super) fn forbid() -> Result<(), String> {
    let program = program().map_err(|error| format!("no seccomp filter: {error}"))?;
    seccompiler::apply_filter_all_threads(&program)
        .map_err(|error| format!("this kernel rejects the seccomp filter: {error}"))
}

fn program() -> Result<BpfProgram, BackendError> {
    let mut rules = BTreeMap::new();
    for call in FORBIDDEN.iter().chain(FORBIDDEN_HERE) {
        rules.insert(*call, Vec::new());
        #[cfg(target_arch = "x86_64")]
        rules.insert(*call | X32, Vec::new());
    }
    #[cfg(target_arch = "x86_64")]
    rules.extend(OWN_OF_X32.map(|call| (call | X32, Vec::new())));
    // Signals go to this process alone, as abort(3) sends one; limits likewise.
    let own = u64::from(process::id());
    rules.insert(libc::SYS_kill, vec![unless_first_is(own)?]);
    rules.insert(libc::SYS_tgkill, vec![unless_first_is(own)?]);
    rules.insert(libc::SYS_prlimit64, vec![unless_first_is(0)?]);
    // A pair that is not a stream could send to any address.
    let kinds = [
        libc::SOCK_DGRAM,
        libc::SOCK_RAW,
        libc::SOCK_RDM,
        libc::SOCK_SEQPACKET,
    ];
    let kinds: Result<Vec<SeccompRule>, BackendError> = kinds.into_iter().map(of_kind).collect();
    rules.insert(libc::SYS_socketpair, kinds?);
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, ARCH.try_into()?)?;
    filter.try_into()
}

/// If the first argument is another number than this.
fn unless_first_is(number: u64) -> Result<SeccompRule, BackendError> {
    let length = SeccompCmpArgLen::Dword;
    let other = SeccompCondition::new(0, length, SeccompCmpOp::Ne, number)?;
    SeccompRule::new(vec![other])
}

/// If the second argument is this kind of socket, with any flags.
fn of_kind(kind: i32) -> Result<SeccompRule, BackendError> {
    /// The bits of the kind (`SOCK_TYPE_MASK`).
    const KIND: u64 = 0xf;
    let length = SeccompCmpArgLen::Dword;
    let asks = SeccompCondition::new(1, length, SeccompCmpOp::MaskedEq(KIND), kind as u64)?;
    SeccompRule::new(vec![asks])
}
