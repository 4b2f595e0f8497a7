//! The life of the listening socket: the lock beside it, its creation with the right permissions,
//! and its removal.

use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::cli::Options;
use llama_cpp_bridge::sys;
use llama_cpp_bridge::sys::files;
use llama_cpp_bridge::sys::systemd::activation::Passed;

/// Longest path of a Unix socket, in bytes: `sun_path` of `sockaddr_un` less the final NUL.
const PATH_LIMIT: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// The exclusive right to the path of a socket. The lock file is removed with it.
pub struct Claim {
    socket: PathBuf,
    lock_path: PathBuf,
    /// Holds the lock for as long as it is open.
    _lock: File,
}

/// The default permissions of a socket: its owner alone may connect.
const MODE: u32 = 0o600;

/// Where the bridge listens once it can serve.
pub enum Place {
    /// At a path of its own.
    Path(Claim),
    /// On a socket that is there already.
    Passed(Passed),
}

impl Place {
    /// A socket that was passed in, else the path that the options name, claimed.
    ///
    /// # Errors
    /// Options that are not true of the socket passed in; those of [`Claim::new`].
    pub fn find(passed: Option<Passed>, options: &Options) -> Result<Self, String> {
        match passed {
            Some(passed) => agree(options, &passed).map(|()| Self::Passed(passed)),
            None => Claim::new(&options.socket).map(Self::Path),
        }
    }

    /// What the place is called on this host: an absolute path, or the name of the socket.
    pub fn name(&self) -> String {
        match self {
            Self::Path(claim) => {
                let given = &claim.socket;
                let path = std::path::absolute(given).unwrap_or_else(|_| given.clone());
                path.to_string_lossy().into_owned()
            }
            Self::Passed(passed) => passed.name.clone(),
        }
    }

    /// Listens there.
    ///
    /// # Errors
    /// Those of [`Claim::bind`].
    pub fn listen(self, options: &Options) -> Result<Socket, String> {
        match self {
            Self::Path(claim) => claim.bind(options),
            Self::Passed(passed) => Ok(Socket {
                listener: passed.listener,
                name: passed.name,
                _file: None,
            }),
        }
    }
}

/// A listening socket.
pub struct Socket {
    pub listener: UnixListener,
    /// Its path, or another name, for messages.
    pub name: String,
    /// Its file, if the bridge made it.
    _file: Option<SocketFile>,
}

impl Socket {
    /// Looks whether a client could be accepted: one that connects to a bridge that has no descriptor
    /// left for it would wait for ever.
    ///
    /// # Errors
    /// A sentence, if no descriptor is left.
    pub fn expect_room_for_a_client(&self) -> Result<(), String> {
        let another = self.listener.try_clone().map(drop);
        let name = &self.name;
        another.map_err(|error| format!("{name}: no descriptor is left for a client: {error}"))
    }
}

/// The file of a socket that the bridge made. It is removed with this.
struct SocketFile {
    identity: (u64, u64),
    claim: Claim,
}

impl Claim {
    /// Claims a path, so that of two bridges that start at the same moment one gets it. A stale
    /// socket is left for [`bind`](Self::bind) to replace.
    ///
    /// # Errors
    /// A path that is too long, served by someone already, or not a socket's.
    fn new(socket: &Path) -> Result<Self, String> {
        let shown = socket.display();
        let length = socket.as_os_str().as_bytes().len();
        if length > PATH_LIMIT {
            return Err(format!(
                "{shown}: the socket path has {length} bytes; the limit is {PATH_LIMIT}"
            ));
        }
        let mut lock_path = socket.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let parent = socket.parent().filter(|parent| *parent != Path::new(""));
        if let Some(parent) = parent.filter(|parent| !parent.exists()) {
            let parent = parent.display();
            return Err(format!("{shown}: the directory {parent} does not exist"));
        }
        let Some(lock) = lock(&lock_path)? else {
            return Err(format!("{shown}: another bridge is serving there"));
        };
        let claim = Self {
            socket: socket.to_path_buf(),
            lock_path,
            _lock: lock,
        };
        claim.check()?;
        Ok(claim)
    }

    /// Looks at what is at the path, without changing it.
    fn check(&self) -> Result<(), String> {
        let shown = self.socket.display();
        match fs::symlink_metadata(&self.socket) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(format!("{shown}: {error}")),
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(format!("{shown}: exists and is not a socket; left alone"));
            }
            Ok(_) => (),
        }
        match sys::socket::connect_at_once(&self.socket) {
            Ok(()) => Err(format!("{shown}: another server is listening there")),
            // Its queue is full, which only somebody who listens can have.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(format!("{shown}: another server is listening there"))
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(format!("{shown}: {error}")),
        }
    }

    /// Replaces a stale socket and listens. The permissions are right from the moment the file
    /// exists; a group gets its share once the file belongs to it.
    ///
    /// # Errors
    /// Those of bind(2), and of chown(2) to the group.
    fn bind(self, options: &Options) -> Result<Socket, String> {
        let shown = self.socket.display().to_string();
        let failed = |error: io::Error| format!("{shown}: {error}");
        let group = match &options.socket_group {
            Some(group) => Some(resolve_group(group)?),
            None => None,
        };
        self.check()?;
        match fs::remove_file(&self.socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => (),
        }
        let mode = options.socket_mode.unwrap_or(MODE);
        let first = if group.is_some() { mode & 0o700 } else { mode };
        let umask = sys::process::set_umask(0o777 & !first);
        let listener = UnixListener::bind(&self.socket);
        sys::process::set_umask(umask);
        let listener = listener.map_err(failed)?;
        if let Some(group) = group {
            chown(&self.socket, None, Some(group))
                .map_err(|error| format!("{shown}: cannot give it to group {group}: {error}"))?;
            fs::set_permissions(&self.socket, Permissions::from_mode(mode)).map_err(failed)?;
        }
        listener.set_nonblocking(true).map_err(failed)?;
        let metadata = fs::symlink_metadata(&self.socket).map_err(failed)?;
        Ok(Socket {
            listener,
            name: shown,
            _file: Some(SocketFile {
                identity: (metadata.dev(), metadata.ino()),
                claim: self,
            }),
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While the lock is still held, so that nobody else's file can be hit.
        let _ = fs::remove_file(&self.lock_path);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it and put another in its place.
        let path = &self.claim.socket;
        if fs::symlink_metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Locks a file, creating it; `None` if it is locked already. A bridge removes the file when it
/// ends, so a lock counts only if the file is still the one at the path.
fn lock(path: &Path) -> Result<Option<File>, String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    loop {
        if let Ok(metadata) = fs::symlink_metadata(path) {
            expect_lock(path, &metadata)?;
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // Whatever takes its place in this moment, a FIFO for instance, does not hold the
            // start.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(failed)?;
        expect_lock(path, &file.metadata().map_err(failed)?)?;
        match file.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let ours = file.metadata().map_err(failed)?;
        if fs::symlink_metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (ours.dev(), ours.ino()))
        {
            return Ok(Some(file));
        }
    }
}

fn expect_lock(path: &Path, metadata: &Metadata) -> Result<(), String> {
    let shown = path.display();
    match files::special_kind(metadata.file_type()) {
        None => Ok(()),
        Some(what) => Err(format!(
            "{shown}: is {what}, not a bridge's lock file; left alone"
        )),
    }
}

fn resolve_group(group: &str) -> Result<u32, String> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    match sys::names::group_id(group) {
        Ok(Some(number)) => Ok(number),
        Ok(None) => Err(format!("--socket-group: unknown group '{group}'")),
        Err(error) => Err(format!("--socket-group: {group}: {error}")),
    }
}

/// Whether the options are true of the socket. What they would set is set already, by somebody
/// else, and is not to be passed over in silence.
fn agree(options: &Options, passed: &Passed) -> Result<(), String> {
    let (given, name) = (&options.socket, &passed.name);
    let named = passed.path.as_ref().is_some_and(|path| same(path, given));
    if options.socket_given && !named {
        return Err(format!(
            "--socket: {} is not the socket passed in, {name}; omit the option",
            given.display()
        ));
    }
    for (given, option, setting) in [
        (
            options.socket_mode.is_some(),
            "--socket-mode",
            "SocketMode=",
        ),
        (
            options.socket_group.is_some(),
            "--socket-group",
            "SocketGroup=",
        ),
    ] {
        if given {
            return Err(format!(
                "{option}: the socket passed in, {name}, already has its permissions; \
                 a systemd.socket unit sets them with {setting}"
            ));
        }
    }
    Ok(())
}

/// Whether two paths lead to the same file.
fn same(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| -> Option<PathBuf> { fs::canonicalize(path).ok() };
    a == b || real(a).is_some_and(|a| real(b) == Some(a))
}
