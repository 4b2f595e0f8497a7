//! The few system calls that the standard library does not offer: poll(2), signals, umask(2), the
//! group database, and what ties the model process to the bridge.
//!
//! All `unsafe` of the bridge and of llambo is here; every function is safe to call.

#[cfg(target_os = "linux")]
use std::ffi::OsStr;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

/// Write end of the pipe that the signal handler writes to; -1 before [`signals_to`].
static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

/// Whether a signal has asked to stop: the pipe may be full and lose one.
static STOP_REQUESTED: AtomicBool = AtomicBool::new(false);

/// poll(2), with a time in milliseconds; -1 is for ever.
///
/// # Errors
/// Those of poll(2).
pub(crate) fn poll(fds: &mut [libc::pollfd], milliseconds: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of the slice.
    let count = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, milliseconds) };
    if count < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

extern "C" fn on_signal(signal: libc::c_int) {
    if signal != libc::SIGCHLD {
        STOP_REQUESTED.store(true, Ordering::Relaxed);
    }
    let byte = signal as u8;
    let pipe: RawFd = SIGNAL_PIPE.load(Ordering::Relaxed);
    // SAFETY: write(2) is async-signal-safe. errno is put back for the code that was interrupted.
    // A full pipe loses the byte, which changes nothing: one is enough.
    unsafe {
        let errno = errno_location();
        let saved = *errno;
        libc::write(pipe, (&raw const byte).cast(), 1);
        *errno = saved;
    }
}

#[cfg(any(target_os = "macos", target_os = "ios", target_os = "freebsd"))]
unsafe fn errno_location() -> *mut libc::c_int {
    // SAFETY: always returns the calling thread's own errno.
    unsafe { libc::__error() }
}

#[cfg(not(any(target_os = "macos", target_os = "ios", target_os = "freebsd")))]
unsafe fn errno_location() -> *mut libc::c_int {
    // SAFETY: always returns the calling thread's own errno.
    unsafe { libc::__errno_location() }
}

/// Has the signals that are [caught](catch_signal) write a byte to this stream, for as long as the
/// process lives.
pub(crate) fn signals_to(writer: UnixStream) {
    SIGNAL_PIPE.store(writer.into_raw_fd(), Ordering::Relaxed);
}

/// Whether a signal has come that asks to stop.
pub(crate) fn stop_requested() -> bool {
    STOP_REQUESTED.load(Ordering::Relaxed)
}

/// Catches a signal.
///
/// # Errors
/// Those of sigaction(2).
pub(crate) fn catch_signal(signal: libc::c_int) -> io::Result<()> {
    handle(signal, on_signal as *const () as libc::sighandler_t)
}

/// Whether a signal is ignored.
///
/// # Errors
/// Those of sigaction(2).
pub(crate) fn is_ignored(signal: libc::c_int) -> io::Result<bool> {
    // SAFETY: the structure is plain data, which the call fills.
    let (result, action) = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let result = libc::sigaction(signal, std::ptr::null(), &raw mut action);
        (result, action)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(action.sa_sigaction == libc::SIG_IGN)
}

/// Sets what a signal does.
fn handle(signal: libc::c_int, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: the structure is plain data, zeroed is its empty value, and the only handler of this
    // program does no more than is allowed in one.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = libc::SA_RESTART | libc::SA_NOCLDSTOP;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut())
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Lets every signal through. A blocked one stays so over fork(2) and execve(2).
///
/// # Errors
/// Those of sigprocmask(2).
pub(crate) fn unblock_signals() -> io::Result<()> {
    // SAFETY: the set is plain data, which sigemptyset fills.
    let result = unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Connects to a Unix socket and hangs up again, without ever waiting for the one that listens.
///
/// # Errors
/// Those of connect(2); on Linux `WouldBlock` where the queue of the one that listens is full.
pub(crate) fn connect_at_once(path: &Path) -> io::Result<()> {
    // SAFETY: the structure is plain data, zeroed is its empty value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    // One byte is for the NUL at the end.
    if bytes.len() >= address.sun_path.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    // SAFETY: socket(2) gives a descriptor that nobody else owns.
    let socket = unsafe {
        match libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) {
            -1 => return Err(io::Error::last_os_error()),
            socket => UnixStream::from_raw_fd(socket),
        }
    };
    socket.set_nonblocking(true)?;
    // SAFETY: the address is a sockaddr_un, and the length is that of the whole of it.
    let result = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_un>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The path that this program was started by, as execve(2) was given it; only Linux tells.
pub(crate) fn executed_file() -> Option<PathBuf> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: getauxval(3) takes a number, and gives the address of a text that ends with NUL
        // and lives as long as the process, or 0.
        let path = unsafe {
            match libc::getauxval(libc::AT_EXECFN) {
                0 => return None,
                address => CStr::from_ptr(address as *const libc::c_char),
            }
        };
        Some(PathBuf::from(OsStr::from_bytes(path.to_bytes())))
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Sets the mask of the permissions that new files do not get; returns the one before.
pub(crate) fn set_umask(mask: u32) -> u32 {
    // SAFETY: umask(2) cannot fail and touches no memory.
    #[allow(clippy::unnecessary_cast)]
    unsafe {
        libc::umask(mask as libc::mode_t) as u32
    }
}

/// The number of a group of this host, by its name; `None` where there is no such group.
///
/// # Errors
/// Those of getgrnam_r(3), when the group database cannot be read.
pub(crate) fn group_id(name: &str) -> io::Result<Option<u32>> {
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

/// The number of a user of this host, by its name; `None` where there is no such user.
///
/// # Errors
/// Those of getpwnam_r(3), when the user database cannot be read.
pub(crate) fn user_id(name: &str) -> io::Result<Option<u32>> {
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

/// Looks a name up by a call that says ERANGE when it needs a larger buffer. A name that cannot be
/// one is not looked up.
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

/// The local date and time in a format of strftime(3); nothing for one whose result is longer
/// than 1,023 bytes.
#[cfg(feature = "chat-template")]
pub(crate) fn local_time(format: &str) -> String {
    let Ok(format) = CString::new(format) else {
        return String::new();
    };
    let mut text = vec![0u8; 1024];
    // SAFETY: tm is plain data that localtime_r fills; strftime writes at most the buffer's
    // length and returns how much.
    let length = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut local: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&raw const now, &raw mut local).is_null() {
            return String::new();
        }
        libc::strftime(
            text.as_mut_ptr().cast(),
            text.len(),
            format.as_ptr(),
            &raw const local,
        )
    };
    text.truncate(length);
    String::from_utf8_lossy(&text).into_owned()
}

/// Makes this process end with the one that started it, however that one ends, go by a name of its
/// own in lists of processes, and leave no core file: one would be as large as the model. The
/// first two work on Linux only; elsewhere the end of the socket tells.
pub(crate) fn live_and_die_with_parent() {
    #[cfg(target_os = "linux")]
    // SAFETY: both calls take plain numbers or a pointer to static text.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::prctl(libc::PR_SET_NAME, c"llama-cpp-model".as_ptr());
    }
    leave_no_core();
}

/// Makes this process, and those that it starts, leave no core file.
pub(crate) fn leave_no_core() {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a local that outlives the call.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
    }
}

/// Keeps this process and all that it might start from ever having more rights, as by a program that
/// is set-user-ID. Linux only.
pub(crate) fn give_up_new_privileges() {
    // SAFETY: prctl(2) takes plain numbers here.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    }
}

/// Has this process get no further huge pages; those that it has stay. A buffer of which only a part
/// is used would take more memory by them. Linux only.
pub(crate) fn stop_huge_pages() {
    // SAFETY: prctl(2) takes plain numbers here.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    }
}

/// Bytes of memory that this process has to itself, as RLIMIT_DATA counts them; `None` where the
/// system does not tell.
pub(crate) fn data_size() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split_whitespace().nth(5)?.parse().ok()?;
    Some(pages * configured(libc::_SC_PAGESIZE)?)
}

/// What sysconf(3) says of the system; `None` where it says nothing.
pub(crate) fn configured(name: libc::c_int) -> Option<u64> {
    // SAFETY: sysconf(3) takes and returns a number.
    let number = unsafe { libc::sysconf(name) };
    u64::try_from(number).ok()
}

/// Lets this process have no more than so many bytes of memory to itself, and no more than it
/// could have before. Beyond that, allocations fail.
pub(crate) fn limit_data(bytes: u64) {
    // SAFETY: both calls take a pointer to a local structure, which is plain data.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_DATA, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_cur.min(bytes as libc::rlim_t);
            libc::setrlimit(libc::RLIMIT_DATA, &raw const limit);
        }
    }
}

/// The processor time of this thread.
pub(crate) fn processor_time() -> Duration {
    // SAFETY: timespec is plain data, and clock_gettime fills it.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time);
        time
    };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What [`or_end`] leaves behind when it ends the process.
const OVERDUE: &str = "llama.cpp did not come to an end with the grammar\n";

/// Does work that cannot be interrupted, and ends the process if it takes longer than this, which
/// is rounded down to seconds.
pub(crate) fn or_end<T>(limit: Duration, work: impl FnOnce() -> T) -> T {
    // SAFETY: the structure is plain data, zeroed is its empty value, and the handler only does
    // what is allowed in one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_overdue as *const () as libc::sighandler_t;
        libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
        libc::alarm(limit.as_secs() as libc::c_uint);
    }
    let result = work();
    // SAFETY: alarm(2) takes and returns a number.
    unsafe { libc::alarm(0) };
    result
}

extern "C" fn on_overdue(_: libc::c_int) {
    let errors: RawFd = REAL_ERRORS.load(Ordering::Relaxed);
    // SAFETY: write(2) and _exit(2) are async-signal-safe; the text is static.
    unsafe {
        libc::write(errors, OVERDUE.as_ptr().cast(), OVERDUE.len());
        libc::_exit(1);
    }
}

/// Where standard error leads while [`capture_errors`] has it.
static REAL_ERRORS: AtomicI32 = AtomicI32::new(libc::STDERR_FILENO);

/// Does work, and returns what is written to standard error meanwhile, up to what a socket holds.
/// Where there are no descriptors left, nothing is captured.
pub(crate) fn capture_errors<T>(work: impl FnOnce() -> T) -> (T, String) {
    let pair = UnixStream::pair().and_then(|(reader, writer)| {
        reader.set_nonblocking(true)?;
        // What does not fit is lost: who writes there must not wait.
        writer.set_nonblocking(true)?;
        Ok((reader, writer))
    });
    // SAFETY: fcntl(2) makes a new descriptor or fails.
    let kept = unsafe { libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, 3) };
    let (Ok((mut reader, writer)), true) = (pair, kept >= 0) else {
        return (work(), String::new());
    };
    REAL_ERRORS.store(kept, Ordering::Relaxed);
    // SAFETY: both are descriptors of this process.
    unsafe { libc::dup2(writer.as_raw_fd(), libc::STDERR_FILENO) };
    let result = work();
    // SAFETY: as above; `kept` is not used afterwards.
    unsafe {
        libc::dup2(kept, libc::STDERR_FILENO);
        REAL_ERRORS.store(libc::STDERR_FILENO, Ordering::Relaxed);
        libc::close(kept);
    }
    drop(writer);
    let mut text = Vec::new();
    let _ = reader.read_to_end(&mut text);
    (result, String::from_utf8_lossy(&text).into_owned())
}

/// True if the process was started without a standard output, as by `>&-`.
static OUTPUT_CLOSED: AtomicBool = AtomicBool::new(false);

/// Has [`look`] called before the standard library's own start, which opens /dev/null in place of a
/// closed standard output, so that nobody can tell any more.
#[used]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_init_func"))]
#[cfg_attr(not(target_os = "macos"), unsafe(link_section = ".init_array"))]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    // SAFETY: fcntl(2) with F_GETFD takes plain numbers and changes nothing.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    OUTPUT_CLOSED.store(flags == -1, Ordering::Relaxed);
}

/// Whether the process was started without a standard output.
pub(crate) fn output_is_closed() -> bool {
    OUTPUT_CLOSED.load(Ordering::Relaxed)
}

/// Keeps SIGINT from ending the process, or lets it again: for this thread and those that it starts
/// from now on. One that comes meanwhile waits for [`wait_for_interrupt`].
pub(crate) fn hold_interrupts(hold: bool) {
    let how = if hold {
        libc::SIG_BLOCK
    } else {
        libc::SIG_UNBLOCK
    };
    let set = interrupt();
    // SAFETY: the set is a local that outlives the call; there is no way to fail with these arguments.
    unsafe {
        libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut());
    }
}

/// Waits for a SIGINT that is held.
pub(crate) fn wait_for_interrupt() {
    let set = interrupt();
    let mut signal = 0;
    // SAFETY: both pointers are to locals that outlive the call.
    unsafe {
        libc::sigwait(&raw const set, &raw mut signal);
    }
}

/// The set of signals that holds SIGINT alone.
fn interrupt() -> libc::sigset_t {
    // SAFETY: a set is plain data, which sigemptyset fills.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        set
    }
}

/// The value of an option of a socket (SOL_SOCKET), written into `value` as the kernel has it; and
/// its length in bytes, which with ERANGE is that of a value that does not fit.
pub(crate) fn socket_option(
    socket: BorrowedFd<'_>,
    option: libc::c_int,
    value: &mut [u8],
) -> (io::Result<()>, usize) {
    let mut length = value.len() as libc::socklen_t;
    // SAFETY: the length is that of the slice, and both outlive the call; the kernel writes no more
    // than that.
    let result = unsafe {
        let (socket, start) = (socket.as_raw_fd(), value.as_mut_ptr());
        libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            option,
            start.cast(),
            &raw mut length,
        )
    };
    let result = match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    (result, length as usize)
}

/// The effective user and group of who connected a Unix socket.
///
/// # Errors
/// Those of getpeereid(3).
#[cfg(not(target_os = "linux"))]
pub(crate) fn peer_ids(stream: &UnixStream) -> io::Result<(u32, u32)> {
    let (mut uid, mut gid) = (libc::uid_t::MAX, libc::gid_t::MAX);
    // SAFETY: the pointers are to locals that outlive the call.
    match unsafe { libc::getpeereid(stream.as_raw_fd(), &raw mut uid, &raw mut gid) } {
        0 => Ok((uid, gid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The first that sd_listen_fds(3) passes: SD_LISTEN_FDS_START.
const PASSED: RawFd = 3;

/// Takes over descriptor 3, and keeps further programs from inheriting it. To be called before
/// anything is opened, which would get this number where none was passed.
///
/// # Errors
/// EBADF where it is not open, or was taken before; those of fcntl(2).
pub(crate) fn take_passed() -> io::Result<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: fcntl(2) with these commands takes plain numbers, and fails for a descriptor that is
    // not open.
    let result = unsafe { libc::fcntl(PASSED, libc::F_SETFD, libc::FD_CLOEXEC) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, was passed to this process to own, and is taken here once.
    Ok(unsafe { OwnedFd::from_raw_fd(PASSED) })
}

/// Opens what has this name in a directory, as openat(2) does.
///
/// # Errors
/// Those of openat(2).
pub(crate) fn open_at(directory: &File, name: &CStr, flags: libc::c_int) -> io::Result<File> {
    // SAFETY: the name ends with NUL and outlives the call; openat(2) gives a descriptor that
    // nobody else owns, or -1.
    unsafe {
        match libc::openat(directory.as_raw_fd(), name.as_ptr(), flags) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(File::from_raw_fd(fd)),
        }
    }
}

/// Another descriptor of a file, which all processes inherit that are started while it is open.
///
/// # Errors
/// Those of fcntl(2).
pub(crate) fn inheritable(file: &File) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(2) gives a descriptor that nobody else owns, or -1. The first three have other
    // uses in the new process.
    unsafe {
        match libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, 3) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Asks the system to read a part of a file into its cache soon; `offset` and `length` are bytes.
///
/// # Errors
/// Those of posix_fadvise(2); `Unsupported` where there is no such call.
pub(crate) fn will_need(file: &File, offset: u64, length: u64) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "freebsd"))]
    {
        let (offset, length) = (offset as libc::off_t, length as libc::off_t);
        let advice = libc::POSIX_FADV_WILLNEED;
        // SAFETY: the call takes numbers and a descriptor that is open, and returns an error.
        match unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, length, advice) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
    {
        let _ = (file, offset, length);
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }
}

/// The seams to GCC's OpenMP, as a module `gnu` of the bridge's openmp.rs: llambo, which has this file,
/// too, has no OpenMP.
#[cfg(openmp_in_hand)]
#[allow(unused_macros)]
macro_rules! gnu_openmp {
    () => {
        #[allow(unsafe_code)]
        mod gnu {
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
            /// many threads, and comes back when all are done.
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
        }
    };
}
#[cfg(openmp_in_hand)]
#[allow(unused_imports)]
pub(crate) use gnu_openmp;

// The unwinder goes into the programs, as the C++ library and OpenMP do: libgcc_s.so.1 would be the
// one library to load that a minimal host may lack.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[link(name = "gcc_eh", kind = "static", modifiers = "+whole-archive")]
unsafe extern "C" {}
