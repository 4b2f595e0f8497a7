//! `ls`: the bridges of this machine, by their sockets.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use llama_cpp_bridge::shared::failure::Code;

use crate::cli::Options;
use crate::connection::{self, Address, Bridges};
use crate::failure::Failure;
use crate::output;

/// The environment variable that names the directories to look in, separated by colons.
const DIRECTORIES_VARIABLE: &str = "LLAMBO_LS_PATH";

/// The directory in which every socket is a bridge's, as the systemd units create it.
const OWN_DIRECTORY: &str = "/run/llama-cpp-bridge";

/// How long a bridge may take to answer before it counts as busy, without `--timeout`. Longer than
/// the penalty for a wrong token.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of a socket.
struct Row {
    socket: String,
    /// One of the words that the manual lists.
    state: &'static str,
    model: Option<String>,
}

/// Asks all bridges at once and prints what each says.
pub fn run(options: &Options) -> Result<(), Failure> {
    let directories = directories();
    let mut paths: BTreeSet<PathBuf> = directories.iter().flat_map(|path| sockets(path)).collect();
    let mut places = Vec::new();
    for address in &options.bridges.addresses {
        match address {
            // The default socket is listed only if it exists.
            Address::Unix(path) if path.exists() => drop(paths.insert(path.clone())),
            Address::Unix(_) => (),
            Address::Tcp(_) => places.push(address.clone()),
        }
    }
    let addresses = paths.into_iter().map(Address::Unix).chain(places);
    let bridges = Bridges {
        timeout: options.bridges.timeout.or(Some(PATIENCE)),
        ..options.bridges.clone()
    };
    let asked: Vec<_> = addresses
        .map(|address| {
            let bridges = bridges.clone();
            thread::spawn(move || look(&address, &bridges))
        })
        .collect();
    let rows: Vec<Row> = asked
        .into_iter()
        .filter_map(|row| row.join().ok().flatten())
        .collect();
    if rows.is_empty() {
        let shown: Vec<String> = directories
            .iter()
            .map(|d| d.display().to_string())
            .collect();
        let message = format!("no bridge found in {}", shown.join(", "));
        return Err(Failure::Connect(message));
    }
    print(&rows, options.json)
}

/// The directories to search for sockets.
fn directories() -> Vec<PathBuf> {
    if let Some(list) = env::var_os(DIRECTORIES_VARIABLE).filter(|list| !list.is_empty()) {
        return env::split_paths(&list).collect();
    }
    let mut directories: Vec<PathBuf> = ["/tmp", "/run", OWN_DIRECTORY].map(PathBuf::from).into();
    let own = connection::own_uid().map(|uid| OsString::from(format!("/run/user/{uid}")));
    let own = env::var_os("XDG_RUNTIME_DIR").or(own.ok());
    directories.extend(own.map(PathBuf::from));
    directories
}

/// The sockets in a directory whose names are a bridge's.
fn sockets(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let all = directory == Path::new(OWN_DIRECTORY);
    let found = entries.flatten().filter(|entry| {
        let name = entry.file_name();
        let name = name.as_bytes();
        let named = all || name.starts_with(b"llama-cpp-bridge");
        // Symbolic links are followed.
        let kind = fs::metadata(entry.path()).map(|metadata| metadata.file_type());
        named && name.ends_with(b".sock") && kind.is_ok_and(|kind| kind.is_socket())
    });
    found.map(|entry| entry.path()).collect()
}

/// Asks one of them; `None` if nobody is listening there any more.
fn look(address: &Address, bridges: &Bridges) -> Option<Row> {
    let row = |state, model| {
        Some(Row {
            socket: address.to_string(),
            state,
            model,
        })
    };
    let mut connection = match bridges.connect_to(address) {
        Ok(connection) => connection.without_notice(),
        Err(Failure::Untrusted(_)) => return row("not trusted", None),
        Err(Failure::Forbidden(_)) => return row("denied", None),
        Err(Failure::Silence(_)) => return row("busy", None),
        Err(_) => return None,
    };
    match connection
        .quick("INFO")
        .and_then(|reply| reply.into_result())
    {
        Ok(info) if info.has_model() => row("ready", Some(info.text("model").to_string())),
        Ok(_) => row("empty", None),
        Err(Failure::Busy(_)) => row("busy", None),
        Err(Failure::Bridge {
            code: Some(Code::Unauthenticated),
            ..
        }) => row("needs a token", None),
        Err(Failure::Bridge {
            code: Some(Code::Denied),
            ..
        }) => row("denied", None),
        Err(_) => row("sick", None),
    }
}

fn print(rows: &[Row], json: bool) -> Result<(), Failure> {
    if json {
        for row in rows {
            let model = row.model.as_ref();
            let model = model.map(|model| format!(",\"model\":{}", output::json_string(model)));
            output::print_line(&format!(
                "{{\"socket\":{},\"state\":{}{}}}",
                output::json_string(&row.socket),
                output::json_string(row.state),
                model.unwrap_or_default()
            ))?;
        }
        return Ok(());
    }
    let width = |text: fn(&Row) -> &str, least: usize| {
        let widths = rows.iter().map(|row| text(row).chars().count());
        widths.max().unwrap_or_default().max(least)
    };
    let socket = width(|row| &row.socket, "SOCKET".len());
    let state = width(|row| row.state, "STATE".len());
    let line = |columns: [&str; 3]| {
        let text = format!(
            "{:socket$}  {:state$}  {}",
            columns[0], columns[1], columns[2]
        );
        output::print_line(text.trim_end())
    };
    line(["SOCKET", "STATE", "MODEL"])?;
    for row in rows {
        line([&row.socket, row.state, row.model.as_deref().unwrap_or("-")])?;
    }
    Ok(())
}
