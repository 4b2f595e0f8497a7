//! The few system calls that the standard library does not offer: poll(2), signals, umask(2),
//! the group database, and what ties the model process to the bridge.
//!
//! All `unsafe` of the program is here; every function below is safe to call.

use std::ffi::CString;
#[cfg(target_os = "linux")]
use std::ffi::{CStr, OsStr};
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

/// The signals that end the bridge, with their names.
const STOP_SIGNALS: [(libc::c_int, &str); 3] = [
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGINT, "SIGINT"),
    (libc::SIGHUP, "SIGHUP"),
];

/// Write end of the pipe that the signal handler writes to; -1 before [`Signals::catch`].
static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

/// Whether a signal has asked to stop: the pipe may be full and lose one.
static STOP_REQUESTED: AtomicBool = AtomicBool::new(false);

/// One descriptor to wait for, and after [`poll`] what happened to it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct PollFd<'a> {
    inner: libc::pollfd,
    owner: PhantomData<BorrowedFd<'a>>,
}

impl<'a> PollFd<'a> {
    fn new(fd: BorrowedFd<'a>, events: libc::c_short) -> Self {
        let inner = libc::pollfd {
            fd: fd.as_raw_fd(),
            events,
            revents: 0,
        };
        Self {
            inner,
            owner: PhantomData,
        }
    }

    /// Waits until there is something to read, the end of the stream included.
    pub(crate) fn readable(fd: BorrowedFd<'a>) -> Self {
        Self::new(fd, libc::POLLIN)
    }

    /// Waits until there is room to write.
    pub(crate) fn writable(fd: BorrowedFd<'a>) -> Self {
        Self::new(fd, libc::POLLOUT)
    }

    /// Also waits until there is something to read, if `wanted`.
    pub(crate) fn or_readable(mut self, wanted: bool) -> Self {
        self.inner.events |= if wanted { libc::POLLIN } else { 0 };
        self
    }

    /// Also waits until there is room to write, if `wanted`.
    pub(crate) fn or_writable(mut self, wanted: bool) -> Self {
        self.inner.events |= if wanted { libc::POLLOUT } else { 0 };
        self
    }

    /// Waits for nothing but the other side going away for good (POLLHUP, POLLERR). A peer that
    /// has only ended its own sending is not gone.
    pub(crate) fn hangup(fd: BorrowedFd<'a>) -> Self {
        Self::new(fd, 0)
    }

    /// Whether anything was reported.
    pub(crate) fn ready(&self) -> bool {
        self.inner.revents != 0
    }

    /// Whether there is something to read.
    pub(crate) fn has_input(&self) -> bool {
        self.inner.revents & libc::POLLIN != 0
    }

    /// Whether the other side is gone.
    pub(crate) fn gone(&self) -> bool {
        self.inner.revents & (libc::POLLHUP | libc::POLLERR) != 0
    }
}

/// Waits until one of the descriptors is ready or the time is over; without a time, for ever.
/// An interruption by a signal is reported as nothing being ready.
///
/// # Errors
/// Those of poll(2), EINTR excepted.
pub(crate) fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    // Rounded up, so that a wait never ends a fraction of a millisecond before its deadline.
    let milliseconds = timeout.map_or(-1, |time| {
        libc::c_int::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
    });
    // SAFETY: PollFd is a transparent wrapper of pollfd, and the length is that of the slice.
    let count = unsafe {
        libc::poll(
            fds.as_mut_ptr().cast::<libc::pollfd>(),
            fds.len() as libc::nfds_t,
            milliseconds,
        )
    };
    if count >= 0 {
        return Ok(());
    }
    for fd in fds {
        fd.inner.revents = 0;
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        error => Err(error),
    }
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

/// The signals that the bridge acts on, SIGTERM, SIGINT, SIGHUP and SIGCHLD, as something that can
/// be waited for beside the sockets.
pub(crate) struct Signals {
    reader: UnixStream,
}

impl Signals {
    /// Catches them from now on. To be called once, before any other process is started.
    ///
    /// Of what the program was started with, only an ignored SIGHUP stays, as nohup(1) sets it,
    /// for the model process too. A blocked signal would be kept from the handler, and with
    /// SIGCHLD ignored nobody could tell what the model process died of.
    ///
    /// # Errors
    /// Those of socketpair(2) and sigaction(2).
    pub(crate) fn catch() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        SIGNAL_PIPE.store(writer.as_raw_fd(), Ordering::Relaxed);
        // The handler needs the descriptor for as long as the process lives.
        std::mem::forget(writer);
        let handler = on_signal as *const () as libc::sighandler_t;
        for (signal, _) in STOP_SIGNALS {
            if signal != libc::SIGHUP || !is_ignored(signal)? {
                handle(signal, handler)?;
            }
        }
        handle(libc::SIGCHLD, handler)?;
        // After the handlers: a signal that waited for this stops the bridge in an orderly way.
        unblock_signals()?;
        Ok(Self { reader })
    }

    /// Readable when a signal has come.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    /// Takes note of the signals that have come; tells whether one of all so far asks to stop.
    pub(crate) fn stop_requested(&mut self) -> bool {
        let mut bytes = [0; 64];
        while matches!(self.reader.read(&mut bytes), Ok(1..)) {}
        STOP_REQUESTED.load(Ordering::Relaxed)
    }
}

/// Whether a signal is ignored.
fn is_ignored(signal: libc::c_int) -> io::Result<bool> {
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
fn unblock_signals() -> io::Result<()> {
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

/// The name of a signal that a process can die of, `SIGSEGV` for instance.
pub(crate) fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGILL => "SIGILL",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGSYS => "SIGSYS",
        libc::SIGXCPU => "SIGXCPU",
        other => match STOP_SIGNALS.iter().find(|(number, _)| *number == other) {
            Some((_, name)) => name,
            None => return format!("signal {other}"),
        },
    };
    name.to_string()
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
    let Ok(name) = CString::new(name) else {
        return Ok(None);
    };
    let mut buffer = vec![0; 1024];
    loop {
        let mut found: *mut libc::group = std::ptr::null_mut();
        // SAFETY: group is plain data; the buffer's length is its own; all pointers outlive the
        // call, and `found` is either null or points at `group`.
        let (status, id) = unsafe {
            let mut group: libc::group = std::mem::zeroed();
            let status = libc::getgrnam_r(
                name.as_ptr(),
                &raw mut group,
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut found,
            );
            (status, group.gr_gid)
        };
        match status {
            0 => return Ok((!found.is_null()).then_some(id)),
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
    // SAFETY: both calls take plain numbers or a pointer to a local structure.
    unsafe {
        #[cfg(target_os = "linux")]
        {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::prctl(libc::PR_SET_NAME, c"llama-cpp-model".as_ptr());
        }
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
    }
}

/// Bytes of memory that this process has to itself, as RLIMIT_DATA counts them; `None` where the
/// system does not tell.
pub(crate) fn data_size() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split_whitespace().nth(5)?.parse().ok()?;
    // SAFETY: sysconf(3) only returns a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * u64::try_from(page).ok()?)
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

/// Writes one line to standard error, as `llama-cpp-bridge: MESSAGE`. A standard error that is
/// closed is no reason to stop serving.
pub(crate) fn message(text: &str) {
    let _ = writeln!(io::stderr(), "llama-cpp-bridge: {text}");
}

// The unwinder goes into the program, as the C++ library and OpenMP do: libgcc_s.so.1 would be the
// one library to load that a minimal host may lack.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[link(name = "gcc_eh", kind = "static", modifiers = "+whole-archive")]
unsafe extern "C" {}
