//! The calls that the tests make inside the sandbox, and what comes of each.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::parent_id;
use std::path::Path;
use std::process;

use libc::{EACCES, EBADF, ENOSYS, EPERM, c_long};

use super::numbers::{
    CLONE3, FCHMODAT2, FILE_SETATTR, KEXEC_FILE_LOAD, LISTMOUNT, LISTNS, LSM_SET_SELF_ATTR, NEWEST,
    OPEN_TREE_ATTR, OPENAT2, PROCESS_MRELEASE, QUOTACTL_FD, REMOVEXATTRAT, SETXATTRAT, STATMOUNT,
};

/// A call that is carried out.
pub(super) const ALLOWED: i32 = 0;

/// A call: its name, number and arguments; its error on a processor, and with a driver.
pub(super) type Row = (&'static str, c_long, [usize; 6], i32, i32);

/// What the calls are made with: files, processes, and memory for what they take and give.
pub(super) struct Place {
    outside: CString,
    model: CString,
    new: CString,
    saving: CString,
    name: CString,
    own: usize,
    parent: usize,
    zeros: Vec<u64>,
}

impl Place {
    /// The files of this directory.
    pub(super) fn new(home: &Path) -> Self {
        let path = |name: &str| {
            let path = home.join(name);
            CString::new(path.as_os_str().as_bytes()).expect("it has no NUL")
        };
        Self {
            outside: path("outside"),
            model: path("model"),
            new: path("new"),
            saving: path("states/own/saving"),
            name: c"user.llama".into(),
            own: process::id() as usize,
            parent: parent_id() as usize,
            zeros: vec![0; 64],
        }
    }
}

const NONE: [usize; 6] = [0; 6];
/// The current directory, as openat(2) and others take it.
const HERE: usize = libc::AT_FDCWD as usize;
/// A descriptor, or an identifier, that there is not.
const NOTHING: usize = usize::MAX;

/// A priority of input and output of a class that there is not.
const NO_CLASS: usize = 7 << 13;

/// All calls.
pub(super) fn rows(place: &Place) -> Vec<Row> {
    let parts = [
        attributes_of_files(place),
        files(place),
        system_v_and_posix(place),
        processes(place),
        other_processes(place),
        memory_and_sockets(place),
        the_system(place),
        here(place),
    ];
    parts.concat()
}

/// Case B, and what came before these calls.
#[rustfmt::skip]
fn attributes_of_files(place: &Place) -> Vec<Row> {
    let outside = place.outside.as_ptr() as usize;
    let name = place.name.as_ptr() as usize;
    let zeros = place.zeros.as_ptr() as usize;
    let both = |name, call, arguments| (name, call, arguments, EPERM, EPERM);
    vec![
        both("fchmodat2", FCHMODAT2, [HERE, outside, 0o777, 0, 0, 0]),
        both("fchmodat", libc::SYS_fchmodat, [HERE, outside, 0o777, 0, 0, 0]),
        both("fchmod", libc::SYS_fchmod, [NOTHING, 0o777, 0, 0, 0, 0]),
        both("fchownat", libc::SYS_fchownat, [HERE, outside, NOTHING, NOTHING, 0, 0]),
        both("setxattr", libc::SYS_setxattr, [outside, name, zeros, 1, 0, 0]),
        both("setxattrat", SETXATTRAT, [HERE, outside, 0, name, zeros, 16]),
        both("removexattr", libc::SYS_removexattr, [outside, name, 0, 0, 0, 0]),
        both("removexattrat", REMOVEXATTRAT, [HERE, outside, 0, name, 0, 0]),
        both("file_setattr", FILE_SETATTR, [HERE, outside, zeros, 24, 0, 0]),
        both("utimensat", libc::SYS_utimensat, [HERE, outside, 0, 0, 0, 0]),
        both("quotactl_fd", QUOTACTL_FD, [NOTHING, 0, 0, 0, 0, 0]),
        both("open_tree_attr", OPEN_TREE_ATTR, [NOTHING, outside, 0, zeros, 32, 0]),
    ]
}

/// Case Q, and which files can be opened at all.
#[rustfmt::skip]
fn files(place: &Place) -> Vec<Row> {
    let outside = place.outside.as_ptr() as usize;
    let model = place.model.as_ptr() as usize;
    let new = place.new.as_ptr() as usize;
    let passwd = c"/etc/passwd".as_ptr() as usize;
    let zeros = place.zeros.as_ptr() as usize;
    let open = |name, path, flags, on_cpu, with_driver| {
        let arguments = [HERE, path, flags as usize, 0o600, 0, 0];
        (name, libc::SYS_openat, arguments, on_cpu, with_driver)
    };
    let saving = place.saving.as_ptr() as usize;
    let (read, write, empty) = (libc::O_RDONLY, libc::O_WRONLY, libc::O_TRUNC);
    vec![
        ("truncate", libc::SYS_truncate, [outside, 0, 0, 0, 0, 0], EPERM, EPERM),
        ("truncate the model", libc::SYS_truncate, [model, 0, 0, 0, 0, 0], EPERM, EPERM),
        open("empty the model by reading", model, read | empty, EPERM, EPERM),
        open("empty it by no access", model, libc::O_ACCMODE | empty, EPERM, EPERM),
        open("empty it by writing", model, write | empty, EACCES, EACCES),
        open("empty another file", outside, write | empty, EACCES, EACCES),
        open("write the model", model, write, EACCES, EACCES),
        open("write another file", outside, write, EACCES, EACCES),
        open("create a file", new, write | libc::O_CREAT, EACCES, EACCES),
        open("a file without a name", saving, write | libc::O_TMPFILE, EPERM, EPERM),
        open("the same to read", saving, libc::O_RDWR | libc::O_TMPFILE, EPERM, EPERM),
        open("read the model", model, read, ALLOWED, ALLOWED),
        open("read another file", passwd, read, EACCES, ALLOWED),
        ("openat2", OPENAT2, [HERE, model, zeros, 24, 0, 0], ENOSYS, ENOSYS),
        ("unlinkat", libc::SYS_unlinkat, [HERE, outside, 0, 0, 0, 0], EPERM, EACCES),
        ("renameat2", libc::SYS_renameat2, [HERE, outside, HERE, new, 0, 0], EPERM, EACCES),
        ("mkdirat", libc::SYS_mkdirat, [HERE, new, 0o700, 0, 0, 0], EPERM, EACCES),
        ("linkat", libc::SYS_linkat, [HERE, outside, HERE, new, 0, 0], EPERM, EACCES),
        ("symlinkat", libc::SYS_symlinkat, [outside, HERE, new, 0, 0, 0], EPERM, EACCES),
        ("execve", libc::SYS_execve, [new, 0, 0, 0, 0, 0], EPERM, EPERM),
        ("chroot", libc::SYS_chroot, [new, 0, 0, 0, 0, 0], EPERM, EPERM),
    ]
}

/// Case C.
#[rustfmt::skip]
fn system_v_and_posix(place: &Place) -> Vec<Row> {
    let none = c"/llama-cpp-bridge-test-none".as_ptr() as usize + 1;
    let zeros = place.zeros.as_ptr() as usize;
    let both = |name, call, arguments| (name, call, arguments, EPERM, EPERM);
    let nowhere = [NOTHING, 0, 0, 0, 0, 0];
    vec![
        both("shmget", libc::SYS_shmget, NONE),
        both("shmat", libc::SYS_shmat, nowhere),
        both("shmctl", libc::SYS_shmctl, [NOTHING, 2, zeros, 0, 0, 0]),
        both("semget", libc::SYS_semget, NONE),
        both("semop", libc::SYS_semop, nowhere),
        both("semctl", libc::SYS_semctl, [NOTHING, 0, 2, zeros, 0, 0]),
        both("msgget", libc::SYS_msgget, [0x6c6c616d, 0, 0, 0, 0, 0]),
        both("msgsnd", libc::SYS_msgsnd, nowhere),
        both("msgrcv", libc::SYS_msgrcv, nowhere),
        both("msgctl", libc::SYS_msgctl, [NOTHING, 2, zeros, 0, 0, 0]),
        both("mq_open", libc::SYS_mq_open, [none, 0, 0, 0, 0, 0]),
        both("mq_unlink", libc::SYS_mq_unlink, [none, 0, 0, 0, 0, 0]),
        both("mq_timedsend", libc::SYS_mq_timedsend, nowhere),
        both("mq_timedreceive", libc::SYS_mq_timedreceive, nowhere),
        both("mq_notify", libc::SYS_mq_notify, nowhere),
        both("mq_getsetattr", libc::SYS_mq_getsetattr, nowhere),
    ]
}

/// Case D.
#[rustfmt::skip]
fn processes(place: &Place) -> Vec<Row> {
    let zeros = place.zeros.as_ptr() as usize;
    let thread = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
    let clone = |name, flags| {
        let arguments = [flags as usize, 0, 0, 0, 0, 0];
        (name, libc::SYS_clone, arguments, EPERM, EPERM)
    };
    vec![
        clone("fork", libc::SIGCHLD),
        clone("a child of another parent", libc::CLONE_PARENT | libc::SIGCHLD),
        clone("a process in a new namespace", libc::CLONE_NEWUSER | libc::SIGCHLD),
        clone("a thread in a new one", thread | libc::CLONE_NEWUSER | libc::CLONE_FS),
        clone("signal handlers without memory", libc::CLONE_SIGHAND),
        ("clone3", CLONE3, [zeros, 0, 0, 0, 0, 0], ENOSYS, ENOSYS),
        ("unshare", libc::SYS_unshare, NONE, EPERM, EPERM),
        ("setns", libc::SYS_setns, [NOTHING, 0, 0, 0, 0, 0], EPERM, EPERM),
        ("setsid", libc::SYS_setsid, NONE, EPERM, EPERM),
    ]
}

/// Case I; signals and more to the process that started this one.
#[rustfmt::skip]
fn other_processes(place: &Place) -> Vec<Row> {
    let (own, parent) = (place.own, place.parent);
    let zeros = place.zeros.as_ptr() as usize;
    let both = |name, call, arguments| (name, call, arguments, EPERM, EPERM);
    let set_owner = [0, libc::F_SETOWN as usize, own, 0, 0, 0];
    let limit = libc::RLIMIT_NOFILE as usize;
    vec![
        both("setpriority", libc::SYS_setpriority, [0, parent, 0, 0, 0, 0]),
        both("sched_setscheduler", libc::SYS_sched_setscheduler, [parent, 0, zeros, 0, 0, 0]),
        both("sched_setparam", libc::SYS_sched_setparam, [parent, zeros, 0, 0, 0, 0]),
        both("sched_setattr", libc::SYS_sched_setattr, [parent, 0, 0, 0, 0, 0]),
        both("setpriority of its group", libc::SYS_setpriority, [1, 0, 0, 0, 0, 0]),
        // One of the user's would change all of these, if it were allowed.
        both("setpriority of no kind", libc::SYS_setpriority, [3, 0, 0, 0, 0, 0]),
        both("ioprio_set", libc::SYS_ioprio_set, [1, parent, 0, 0, 0, 0]),
        both("ioprio_set of its group", libc::SYS_ioprio_set, [2, 0, NO_CLASS, 0, 0, 0]),
        both("ioprio_set of its user", libc::SYS_ioprio_set, [3, 0, NO_CLASS, 0, 0, 0]),
        ("sched_setaffinity", libc::SYS_sched_setaffinity, [parent, 0, 0, 0, 0, 0], EPERM, EPERM),
        both("prlimit64", libc::SYS_prlimit64, [parent, limit, 0, 0, 0, 0]),
        both("kill", libc::SYS_kill, [parent, 0, 0, 0, 0, 0]),
        both("kill its group", libc::SYS_kill, NONE),
        both("tgkill", libc::SYS_tgkill, [parent, parent, 0, 0, 0, 0]),
        both("tkill", libc::SYS_tkill, [parent, 0, 0, 0, 0, 0]),
        both("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo, [parent, 0, zeros, 0, 0, 0]),
        both("fcntl F_SETOWN", libc::SYS_fcntl, set_owner),
        both("ioctl FIOSETOWN", libc::SYS_ioctl, [0, 0x8901, 0, 0, 0, 0]),
        both("ioctl TIOCSTI", libc::SYS_ioctl, [0, libc::TIOCSTI as usize, 0, 0, 0, 0]),
        both("ptrace", libc::SYS_ptrace, [libc::PTRACE_PEEKUSER as usize, parent, 0, 0, 0, 0]),
        both("process_vm_readv", libc::SYS_process_vm_readv, [parent, 0, 0, 0, 0, 0]),
        both("process_madvise", libc::SYS_process_madvise, [NOTHING, 0, 0, 0, 0, 0]),
        both("process_mrelease", PROCESS_MRELEASE, [NOTHING, 0, 0, 0, 0, 0]),
        both("pidfd_open", libc::SYS_pidfd_open, [parent, 0, 0, 0, 0, 0]),
        both("pidfd_send_signal", libc::SYS_pidfd_send_signal, [NOTHING, 0, 0, 0, 0, 0]),
        both("kcmp", libc::SYS_kcmp, [parent, parent, 0, 0, 0, 0]),
        both("move_pages", libc::SYS_move_pages, [parent, 0, 0, 0, 0, 0]),
        ("kill itself with 0", libc::SYS_kill, [own, 0, 0, 0, 0, 0], ALLOWED, ALLOWED),
        ("read an own limit", libc::SYS_prlimit64, [0, limit, 0, zeros, 0, 0], ALLOWED, ALLOWED),
    ]
}

#[rustfmt::skip]
fn memory_and_sockets(place: &Place) -> Vec<Row> {
    let zeros = place.zeros.as_ptr() as usize;
    let executable = (libc::PROT_READ | libc::PROT_EXEC) as usize;
    let private = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
    let writable = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let shared = (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as usize;
    let growing = private | libc::MAP_GROWSDOWN as usize;
    let out_of_band = [NOTHING, 0, 0, libc::MSG_OOB as usize, 0, 0];
    let (unix, inet) = (libc::AF_UNIX as usize, libc::AF_INET as usize);
    let (stream, datagram) = (libc::SOCK_STREAM as usize, libc::SOCK_DGRAM as usize);
    let data = libc::RLIMIT_DATA as usize;
    let nothing = [NOTHING, 0, 0, 0, 0, 0];
    let own_fds = place.zeros[32..].as_ptr() as usize;
    vec![
        ("executable memory", libc::SYS_mmap, [0, 4096, executable, private, NOTHING, 0], EPERM, ALLOWED),
        ("make memory executable", libc::SYS_mprotect, [0, 0, executable, 0, 0, 0], EPERM, ALLOWED),
        ("memory", libc::SYS_mmap, [0, 4096, writable, private, NOTHING, 0], ALLOWED, ALLOWED),
        ("shared memory", libc::SYS_mmap, [0, 4096, writable, shared, NOTHING, 0], EPERM, ALLOWED),
        ("a second stack", libc::SYS_mmap, [0, 4096, writable, growing, NOTHING, 0], EPERM, ALLOWED),
        ("poison memory", libc::SYS_madvise, [0, 0, 100, 0, 0, 0], EPERM, EPERM),
        ("memfd_create", libc::SYS_memfd_create, [zeros, 0, 0, 0, 0, 0], EPERM, ALLOWED),
        ("socket", libc::SYS_socket, [unix, stream, 0, 0, 0, 0], EPERM, ALLOWED),
        ("socket for datagrams", libc::SYS_socket, [unix, datagram, 0, 0, 0, 0], EPERM, EPERM),
        ("socket for TCP", libc::SYS_socket, [inet, stream, 0, 0, 0, 0], EPERM, EPERM),
        ("socketpair", libc::SYS_socketpair, [unix, stream, 0, own_fds, 0, 0], ALLOWED, ALLOWED),
        ("pair for datagrams", libc::SYS_socketpair, [unix, datagram, 0, own_fds, 0, 0], EPERM, EPERM),
        ("connect", libc::SYS_connect, nothing, EPERM, EPERM),
        ("sendto", libc::SYS_sendto, nothing, EBADF, EBADF),
        ("sendto out of band", libc::SYS_sendto, out_of_band, EPERM, EPERM),
        ("sendmsg", libc::SYS_sendmsg, nothing, EPERM, EBADF),
        ("recvmsg", libc::SYS_recvmsg, nothing, EPERM, EBADF),
        ("set an own limit", libc::SYS_prlimit64, [0, data, NOTHING, 0, 0, 0], EPERM, libc::EFAULT),
        ("add a filter", libc::SYS_seccomp, [1, 1, 0, 0, 0, 0], EPERM, libc::EFAULT),
        ("prctl PR_SET_PDEATHSIG", libc::SYS_prctl, [1, 9, 0, 0, 0, 0], EPERM, ALLOWED),
    ]
}

/// Case R; the system as a whole.
#[rustfmt::skip]
fn the_system(place: &Place) -> Vec<Row> {
    let zeros = place.zeros.as_ptr() as usize;
    let nothing = [NOTHING, 0, 0, 0, 0, 0];
    let both = |name, call, arguments| (name, call, arguments, EPERM, EPERM);
    vec![
        both("kexec_file_load", KEXEC_FILE_LOAD, [NOTHING, NOTHING, 0, 0, 0, 0]),
        both("kexec_load", libc::SYS_kexec_load, [0, NOTHING, 0, 0, 0, 0]),
        both("finit_module", libc::SYS_finit_module, nothing),
        both("bpf", libc::SYS_bpf, nothing),
        both("perf_event_open", libc::SYS_perf_event_open, [0, 0, NOTHING, NOTHING, 0, 0]),
        both("userfaultfd", libc::SYS_userfaultfd, nothing),
        both("io_uring_setup", libc::SYS_io_uring_setup, NONE),
        both("keyctl", libc::SYS_keyctl, nothing),
        both("mount", libc::SYS_mount, NONE),
        both("fsopen", libc::SYS_fsopen, NONE),
        both("statmount", STATMOUNT, NONE),
        both("listmount", LISTMOUNT, NONE),
        both("listns", LISTNS, NONE),
        both("lsm_set_self_attr", LSM_SET_SELF_ATTR, NONE),
        both("capset", libc::SYS_capset, NONE),
        both("personality", libc::SYS_personality, [u32::MAX as usize, 0, 0, 0, 0, 0]),
        both("clock_settime", libc::SYS_clock_settime, [NOTHING, zeros, 0, 0, 0, 0]),
        ("the call after the newest", NEWEST + 1, NONE, ENOSYS, ENOSYS),
        ("a call long after it", 0x1000, NONE, ENOSYS, ENOSYS),
    ]
}

/// Those that only this architecture has.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
fn here(place: &Place) -> Vec<Row> {
    let outside = place.outside.as_ptr() as usize;
    let model = place.model.as_ptr() as usize;
    let empty = (libc::O_RDONLY | libc::O_TRUNC) as usize;
    let x32 = 0x4000_0000;
    vec![
        ("chmod", libc::SYS_chmod, [outside, 0o777, 0, 0, 0, 0], EPERM, EPERM),
        ("open to empty", libc::SYS_open, [model, empty, 0, 0, 0, 0], EPERM, EPERM),
        ("creat", libc::SYS_creat, [outside, 0o600, 0, 0, 0, 0], EPERM, EACCES),
        ("unlink", libc::SYS_unlink, [outside, 0, 0, 0, 0, 0], EPERM, EACCES),
        ("iopl", libc::SYS_iopl, NONE, EPERM, EPERM),
        ("modify_ldt", libc::SYS_modify_ldt, [NOTHING, 0, 0, 0, 0, 0], EPERM, EPERM),
        ("getpid of x32", libc::SYS_getpid | x32, NONE, ENOSYS, ENOSYS),
        ("execve of x32", 520 | x32, NONE, ENOSYS, ENOSYS),
    ]
}
#[cfg(not(target_arch = "x86_64"))]
#[rustfmt::skip]
fn here(_: &Place) -> Vec<Row> {
    Vec::new()
}
