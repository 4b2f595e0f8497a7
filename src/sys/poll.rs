//! Waiting for descriptors: poll(2), with what is waited for in words.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::sys::log::{self, Level};
use crate::sys::raw_poll::poll_raw;

/// How long to wait after poll(2) could not, for want of memory.
const PAUSE: Duration = Duration::from_millis(50);

/// Whether it failed the last time, and that was logged.
static FAILED: AtomicBool = AtomicBool::new(false);

/// One descriptor to wait for, and after [`poll`] what happened to it.
#[derive(Clone, Copy)]
pub struct PollFd<'a> {
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
    pub fn readable(fd: BorrowedFd<'a>) -> Self {
        Self::new(fd, libc::POLLIN)
    }

    /// Waits until there is room to write.
    pub fn writable(fd: BorrowedFd<'a>) -> Self {
        Self::new(fd, libc::POLLOUT)
    }

    /// Also waits until there is something to read, if `wanted`.
    pub fn or_readable(mut self, wanted: bool) -> Self {
        self.inner.events |= if wanted { libc::POLLIN } else { 0 };
        self
    }

    /// Also waits until there is room to write, if `wanted`.
    pub fn or_writable(mut self, wanted: bool) -> Self {
        self.inner.events |= if wanted { libc::POLLOUT } else { 0 };
        self
    }

    /// Waits for nothing but the other side going away for good (POLLHUP, POLLERR). A peer that
    /// has only ended its own sending is not gone.
    pub fn hangup(fd: BorrowedFd<'a>) -> Self {
        Self::new(fd, 0)
    }

    /// Whether anything was reported.
    pub fn ready(&self) -> bool {
        self.inner.revents != 0
    }

    /// Whether there is something to read.
    pub fn has_input(&self) -> bool {
        self.inner.revents & libc::POLLIN != 0
    }

    /// Whether the other side is gone.
    pub fn gone(&self) -> bool {
        self.inner.revents & (libc::POLLHUP | libc::POLLERR) != 0
    }
}

/// Waits until one of the descriptors is ready or the time is over; without a time, for ever.
/// An interruption by a signal is reported as nothing being ready, and so is a kernel that is short
/// of memory: after a pause, as it may soon have some.
///
/// # Errors
/// Those of poll(2), EINTR, EAGAIN and ENOMEM excepted.
pub fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    // Rounded up, so that a wait never ends a fraction of a millisecond before its deadline.
    let milliseconds = timeout.map_or(-1, |time| {
        libc::c_int::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
    });
    let mut raw: Vec<libc::pollfd> = fds.iter().map(|fd| fd.inner).collect();
    match poll_raw(&mut raw, milliseconds) {
        Ok(()) => FAILED.store(false, Ordering::Relaxed),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOMEM)) => {
            if !FAILED.swap(true, Ordering::Relaxed) {
                log::write(Level::Warning, &format!("poll: {error}; will retry"));
            }
            thread::sleep(PAUSE);
        }
        Err(error) => return Err(error),
    }
    // After a failure poll(2) has written nothing.
    for (fd, raw) in fds.iter_mut().zip(raw) {
        fd.inner.revents = raw.revents;
    }
    Ok(())
}
