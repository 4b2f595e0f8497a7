//! Starting a program by its file that is open, whatever has become of its path.

#[cfg(target_os = "linux")]
use std::ffi::CString;
use std::fs::File;
#[cfg(target_os = "linux")]
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
#[cfg(target_os = "linux")]
use std::os::unix::ffi::OsStrExt;
#[cfg(target_os = "linux")]
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// A command that runs this very file, whatever has become of the path that it was opened by:
/// execveat(2), on Linux; elsewhere what is at the path. It gets no arguments and the environment
/// of this process with `changes`: a value, or `None` to leave it out. A script keeps the
/// descriptor, by which its interpreter opens it.
pub fn command_of_file(
    file: &File,
    path: &Path,
    is_script: bool,
    changes: &[(&str, Option<&str>)],
) -> Command {
    let mut command = Command::new(path);
    for (name, value) in changes {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    #[cfg(target_os = "linux")]
    {
        let fd = file.as_raw_fd();
        let text = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
        let name = text(path.as_os_str().as_bytes());
        let kept = std::env::vars_os().filter(|(name, _)| {
            let changed = |(other, _): &(&str, Option<&str>)| name == *other;
            !changes.iter().any(changed)
        });
        let line = |name: &[u8], value: &[u8]| text(&[name, b"=", value].concat());
        let kept = kept.map(|(name, value)| line(name.as_bytes(), value.as_bytes()));
        let set = changes
            .iter()
            .filter_map(|(name, value)| Some(line(name.as_bytes(), (*value)?.as_bytes())));
        let environment: Vec<CString> = kept.chain(set).collect();
        // Everything is allocated before the fork: after it only what is async-signal-safe is done.
        let pointers = Pointers {
            argument: [name.as_ptr(), std::ptr::null()],
            environment: environment
                .iter()
                .map(|line| line.as_ptr())
                .chain([std::ptr::null()])
                .collect(),
            _held: (name, environment),
        };
        let run = move || pointers.run(fd, is_script);
        // SAFETY: the closure makes two system calls and allocates nothing.
        unsafe { command.pre_exec(run) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, is_script);
    command
}

/// Arguments and environment as execveat(2) wants them.
#[cfg(target_os = "linux")]
struct Pointers {
    argument: [*const libc::c_char; 2],
    environment: Vec<*const libc::c_char>,
    _held: (CString, Vec<CString>),
}

// SAFETY: the pointers lead into what is held beside them, which nobody changes.
#[cfg(target_os = "linux")]
unsafe impl Send for Pointers {}
// SAFETY: as above.
#[cfg(target_os = "linux")]
unsafe impl Sync for Pointers {}

#[cfg(target_os = "linux")]
impl Pointers {
    /// Becomes the program; returns only if that fails.
    fn run(&self, fd: libc::c_int, is_script: bool) -> io::Result<()> {
        // SAFETY: the lists end with null, their texts with NUL, and all outlive the calls.
        unsafe {
            if is_script {
                libc::fcntl(fd, libc::F_SETFD, 0);
            }
            libc::syscall(
                libc::SYS_execveat,
                fd,
                c"".as_ptr(),
                self.argument.as_ptr(),
                self.environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
        }
        Err(io::Error::last_os_error())
    }
}
