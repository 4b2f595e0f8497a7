//! The local time, and the processor time of a thread.

#[cfg(feature = "chat-template")]
use std::ffi::CString;
use std::time::Duration;

/// The local date and time in a format of strftime(3); nothing for one whose result is longer
/// than 1,023 bytes.
#[cfg(feature = "chat-template")]
pub fn local_time(format: &str) -> String {
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

/// The processor time of this thread.
pub fn processor_time() -> Duration {
    // SAFETY: timespec is plain data, and clock_gettime fills it.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time);
        time
    };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
