//! Who may do what: which clients are served at all, and what they have to know before that.

use std::fs::OpenOptions;
use std::hint;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use llama_cpp_bridge::shared::token_file;
use llama_cpp_bridge::sys;
use llama_cpp_bridge::sys::files;
use llama_cpp_bridge::sys::peer::Peer;

/// Whom the bridge serves. The default is everybody who can connect.
#[derive(Clone, Default)]
pub struct Access {
    /// `None` where neither users nor groups were named.
    clients: Option<Clients>,
    /// `None` where no token is needed.
    tokens: Option<Tokens>,
}

/// The clients that are served, by number.
#[derive(Clone)]
struct Clients {
    users: Vec<u32>,
    groups: Vec<u32>,
}

/// What a client can authenticate itself with. Never shown.
#[derive(Clone)]
struct Tokens(Vec<String>);

impl Access {
    /// Looks the users and groups up, which are names or numbers, and reads the file of tokens.
    ///
    /// # Errors
    /// A name that does not exist, or what is wrong with the file.
    pub fn open(
        users: &[String],
        groups: &[String],
        tokens: Option<&Path>,
    ) -> Result<Self, String> {
        let clients = Clients {
            users: numbers(users, "--allow-uid", "user", sys::names::user_id)?,
            groups: numbers(groups, "--allow-gid", "group", sys::names::group_id)?,
        };
        let named = !clients.users.is_empty() || !clients.groups.is_empty();
        let tokens = tokens.map(|path| {
            let wrong = |reason| format!("--auth-file: {}: {reason}", path.display());
            Tokens::read(path).map_err(wrong)
        });
        Ok(Self {
            clients: named.then_some(clients),
            tokens: tokens.transpose()?,
        })
    }

    /// Whether a client is served; `groups` are its further groups, which are asked for only where
    /// they matter.
    pub fn admits(&self, peer: Peer, groups: impl FnOnce() -> Vec<u32>) -> bool {
        let Some(clients) = &self.clients else {
            return true;
        };
        let belongs = |group: &u32| clients.groups.contains(group);
        clients.users.contains(&peer.uid)
            || belongs(&peer.gid)
            || (!clients.groups.is_empty() && groups().iter().any(belongs))
    }

    /// Whether a client needs a token.
    pub fn needs_token(&self) -> bool {
        self.tokens.is_some()
    }

    /// Whether this is one of the tokens; any is, where none is needed.
    pub fn knows(&self, token: &str) -> bool {
        self.tokens.as_ref().is_none_or(|tokens| tokens.hold(token))
    }
}

/// The numbers of users or groups; those that are not numbers themselves are looked up.
fn numbers(
    names: &[String],
    option: &str,
    kind: &str,
    look_up: fn(&str) -> io::Result<Option<u32>>,
) -> Result<Vec<u32>, String> {
    let number = |name: &String| match name.parse() {
        // The system's word for nobody at all.
        Ok(u32::MAX) => Err(format!("{option}: unknown {kind} {name}")),
        Ok(number) => Ok(number),
        Err(_) => match look_up(name) {
            Ok(found) => found.ok_or_else(|| format!("{option}: unknown {kind} '{name}'")),
            Err(error) => Err(format!("{option}: cannot look up {kind} '{name}': {error}")),
        },
    };
    names.iter().map(number).collect()
}

impl Tokens {
    /// Reads a file of tokens, one a line.
    fn read(path: &Path) -> Result<Self, String> {
        let file = OpenOptions::new()
            .read(true)
            // A FIFO would hold the start for ever.
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|error| error.to_string())?;
        let metadata = file.metadata().map_err(|error| error.to_string())?;
        match files::special_kind(metadata.file_type()) {
            Some(what) => Err(format!("is {what}, not a regular file")),
            None => token_file::read(file).map(Self),
        }
    }

    /// Whether this is one of them. How long that takes depends on the tokens in the file alone,
    /// so that nobody learns by it how much of a guess was right.
    fn hold(&self, guess: &str) -> bool {
        let guess = guess.as_bytes();
        let mut found = false;
        for token in self.0.iter().map(String::as_bytes) {
            let mut differs = usize::from(token.len() != guess.len());
            for (at, byte) in token.iter().enumerate() {
                let guessed = guess.get(at).copied().unwrap_or_default();
                differs |= usize::from(hint::black_box(byte ^ guessed));
            }
            found |= hint::black_box(differs) == 0;
        }
        found
    }
}
