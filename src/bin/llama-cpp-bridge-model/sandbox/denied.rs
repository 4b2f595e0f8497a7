//! The system calls that the model process gives up in a build with a device's driver. This is a list of
//! what is denied, not of what is allowed: which calls a driver makes is known to its vendor alone, and
//! changes with each version. What the list can miss is a call that reaches out of the process; newer
//! ones than it knows the process does not get at all, and files are Landlock's business.

use std::os::unix::process::parent_id;
use std::process;

use libc::{c_int, c_long, c_ulong};

use super::filter::{
    ADVICE_END, Calls, NAMELESS, OPENING, SOCKET_TYPE, at_least, has, is, is_code, is_not,
};
use super::numbers::{
    FCHMODAT2, FILE_SETATTR, KEXEC_FILE_LOAD, LISTMOUNT, LISTNS, LSM_SET_SELF_ATTR, OPEN_TREE_ATTR,
    PROCESS_MRELEASE, QUOTACTL_FD, REMOVEXATTRAT, SETXATTRAT, STATMOUNT,
};

/// Calls by which a process reaches others, changes the system or its own rights, or uses a
/// part of the kernel that often had bugs. Reading and writing sockets stays allowed, as the link to
/// the bridge is one.
#[rustfmt::skip]
const DENIED: &[c_long] = &[
    // Other programs and hosts. A driver may listen, where nobody comes, and talk to a server that it
    // connected to before (as NVIDIA's MPS is one), but not connect.
    libc::SYS_connect, libc::SYS_execve, libc::SYS_execveat,
    // Other processes.
    libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev,
    libc::SYS_pidfd_open, libc::SYS_pidfd_getfd, libc::SYS_pidfd_send_signal, libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo, libc::SYS_process_madvise,
    PROCESS_MRELEASE, libc::SYS_migrate_pages, libc::SYS_setpgid, libc::SYS_setsid,
    // Memory and messages that any process of the user can have, System V's and POSIX's.
    libc::SYS_shmget, libc::SYS_shmat, libc::SYS_shmctl, libc::SYS_semget, libc::SYS_semop,
    libc::SYS_semtimedop, libc::SYS_semctl, libc::SYS_msgget, libc::SYS_msgsnd, libc::SYS_msgrcv,
    libc::SYS_msgctl, libc::SYS_mq_open, libc::SYS_mq_unlink, libc::SYS_mq_timedsend,
    libc::SYS_mq_timedreceive, libc::SYS_mq_notify, libc::SYS_mq_getsetattr,
    // What Landlock does not restrict of files: modes, owners, attributes, quotas, and before Linux
    // 6.2 their length.
    libc::SYS_fchmod, libc::SYS_fchmodat, FCHMODAT2, libc::SYS_fchown, libc::SYS_fchownat,
    libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr, SETXATTRAT,
    libc::SYS_removexattr, libc::SYS_lremovexattr, libc::SYS_fremovexattr, REMOVEXATTRAT,
    FILE_SETATTR, libc::SYS_utimensat, libc::SYS_truncate, libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at, libc::SYS_quotactl, QUOTACTL_FD,
    // Its own rights.
    libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setreuid, libc::SYS_setregid,
    libc::SYS_setresuid, libc::SYS_setresgid, libc::SYS_setgroups, libc::SYS_setfsuid,
    libc::SYS_setfsgid, libc::SYS_capset, libc::SYS_unshare, libc::SYS_setns, libc::SYS_chroot,
    libc::SYS_pivot_root, libc::SYS_personality, LSM_SET_SELF_ATTR,
    // The system.
    libc::SYS_mount, libc::SYS_umount2, libc::SYS_move_mount, libc::SYS_open_tree, OPEN_TREE_ATTR,
    libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_fspick,
    libc::SYS_mount_setattr, STATMOUNT, LISTMOUNT, LISTNS, libc::SYS_swapon, libc::SYS_swapoff,
    libc::SYS_reboot, libc::SYS_kexec_load, KEXEC_FILE_LOAD, libc::SYS_init_module,
    libc::SYS_finit_module, libc::SYS_delete_module, libc::SYS_acct, libc::SYS_settimeofday,
    libc::SYS_clock_settime, libc::SYS_clock_adjtime, libc::SYS_adjtimex, libc::SYS_sethostname,
    libc::SYS_setdomainname, libc::SYS_syslog, libc::SYS_vhangup,
    // The kernel's own languages and queues; calls through io_uring are not filtered at all.
    libc::SYS_bpf, libc::SYS_perf_event_open, libc::SYS_userfaultfd, libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_keyctl, libc::SYS_add_key,
    libc::SYS_request_key, libc::SYS_fanotify_init,
];

/// Those that only this architecture still has.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const DENIED_HERE: &[c_long] = &[
    libc::SYS_fork, libc::SYS_vfork, libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown,
    libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat, libc::SYS_iopl, libc::SYS_ioperm,
    libc::SYS_modify_ldt,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[c_long] = &[];

/// What makes clone(2) start more than a thread.
const MORE_THAN_A_THREAD: [c_int; 9] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_PTRACE,
    libc::CLONE_PIDFD,
];

/// The codes by which fcntl(2) and ioctl(2) name a process that gets signals, and those by which
/// ioctl(2) types into a terminal.
const SIGNALLING: [c_int; 3] = [libc::F_SETOWN, F_SETSIG, F_SETOWN_EX];
const F_SETSIG: c_int = 10;
const F_SETOWN_EX: c_int = 15;
const REACHING_OUT: [c_ulong; 4] = [FIOSETOWN, SIOCSPGRP, libc::TIOCSTI as c_ulong, TIOCLINUX];
const FIOSETOWN: c_ulong = 0x8901;
const SIOCSPGRP: c_ulong = 0x8902;
const TIOCLINUX: c_ulong = 0x541c;

/// The first argument of setpriority(2) and ioprio_set(2), for one process.
const PRIO_PROCESS: c_int = libc::PRIO_PROCESS as c_int;
const IOPRIO_WHO_PROCESS: c_int = 1;

/// Denies the calls.
///
/// # Errors
/// A sentence: what is not supported here.
pub(super) fn give_up() -> Result<(), String> {
    let mut calls = Calls::default();
    calls.any(DENIED);
    calls.any(DENIED_HERE);
    reaching_out(&mut calls);
    other_processes(&mut calls);
    calls.deny()
}

fn reaching_out(calls: &mut Calls) {
    // Before Linux 6.2 a file that may only be read can be emptied by opening it so.
    for (call, flags) in OPENING {
        for reading in [libc::O_RDONLY, libc::O_ACCMODE] {
            let mask = libc::O_TRUNC | libc::O_ACCMODE;
            calls.when(*call, [has(*flags, mask, libc::O_TRUNC | reading)]);
        }
        calls.when(*call, [has(*flags, NAMELESS, NAMELESS)]);
    }
    for (call, flags) in [
        (libc::SYS_sendto, 3),
        (libc::SYS_sendmsg, 2),
        (libc::SYS_sendmmsg, 3),
    ] {
        calls.when(call, [has(flags, libc::MSG_OOB, libc::MSG_OOB)]);
    }
    // Sockets that are not streams could send to any address.
    calls.when(libc::SYS_socket, [is_not(0, libc::AF_UNIX)]);
    for kind in [libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_RDM] {
        for call in [libc::SYS_socket, libc::SYS_socketpair] {
            calls.when(call, [has(1, SOCKET_TYPE, kind)]);
        }
    }
    for code in REACHING_OUT {
        calls.when(libc::SYS_ioctl, [is_code(1, code)]);
    }
    calls.when(libc::SYS_madvise, [at_least(2, ADVICE_END)]);
    calls.when(libc::SYS_clone, [has(0, libc::CLONE_THREAD, 0)]);
    for flag in MORE_THAN_A_THREAD {
        calls.when(libc::SYS_clone, [has(0, flag, flag)]);
    }
}

/// Signals, limits and priorities are for this process alone. A driver binds its threads to
/// processors, and the kernel cannot be told to let it do so with its own only; the bridge at least is
/// not among them.
fn other_processes(calls: &mut Calls) {
    let own = process::id() as c_int;
    calls.when(libc::SYS_sched_setaffinity, [is(0, parent_id() as c_int)]);
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        calls.when(call, [is_not(0, own)]);
    }
    for argument in [0, 1] {
        calls.when(libc::SYS_kcmp, [is_not(argument, own)]);
    }
    for command in SIGNALLING {
        calls.when(libc::SYS_fcntl, [is(1, command)]);
    }
    for call in [
        libc::SYS_prlimit64,
        libc::SYS_move_pages,
        libc::SYS_sched_setscheduler,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setattr,
    ] {
        calls.when(call, [is_not(0, 0)]);
    }
    // The group of the process has the bridge in it, and the user has other processes.
    let (setpriority, ioprio_set) = (libc::SYS_setpriority, libc::SYS_ioprio_set);
    for (call, process) in [
        (setpriority, PRIO_PROCESS),
        (ioprio_set, IOPRIO_WHO_PROCESS),
    ] {
        calls.when(call, [is_not(0, process)]);
        calls.when(call, [is_not(1, 0)]);
    }
}
