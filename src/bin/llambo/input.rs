//! Texts from the command line and from standard input.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use llama_cpp_bridge::shared::token_file;

use crate::cli::Options;
use crate::failure::{Failure, usage};
use crate::output;

/// How long to wait for standard input before a message says so.
const NOTICE_AFTER: Duration = Duration::from_secs(3);

/// The prompt of `infer` and `chat`: the operand, or standard input where the operand is missing
/// or `-`, or the operand, a blank line and standard input where both are given.
pub fn prompt(options: &Options) -> Result<String, Failure> {
    let text = match operand(&options.operands) {
        None => standard_input(options)?,
        Some(operand) => {
            let mut text = utf8(operand)?;
            if !io::stdin().is_terminal() {
                let more = patiently(|| standard_input(options))?;
                if !more.is_empty() {
                    text.push_str("\n\n");
                    text.push_str(&more);
                }
            }
            text
        }
    };
    not_empty(text)
}

/// The text of `embed` and `tokenize`: the operand, or standard input where it is missing or `-`.
pub fn text(options: &Options) -> Result<String, Failure> {
    not_empty(match operand(&options.operands) {
        None => standard_input(options)?,
        Some(operand) => utf8(operand)?,
    })
}

/// The tokens of `detokenize`: the operands, or the words of standard input, each a number.
pub fn tokens(options: &Options) -> Result<String, Failure> {
    let operands = &options.operands;
    let text = match operand(operands) {
        None => standard_input(options)?,
        Some(_) => {
            let words: Result<Vec<String>, Failure> =
                operands.iter().map(|word| utf8(word)).collect();
            words?.join(" ")
        }
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    if let Some(word) = words.iter().find(|word| word.parse::<u32>().is_err()) {
        return Err(usage!(
            "detokenize takes tokens as whole numbers, not '{word}'"
        ));
    }
    not_empty(words.join(" "))
}

/// An operand that has to be text.
pub fn utf8(operand: &OsStr) -> Result<String, Failure> {
    operand
        .to_str()
        .map(str::to_string)
        .ok_or_else(|| usage!("'{}' is not valid UTF-8", operand.to_string_lossy()))
}

/// Turns bytes into text, or says which byte is not UTF-8.
pub fn decode(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        format!(
            "not valid UTF-8: byte 0x{:02x} at offset {offset}",
            error.as_bytes()[offset]
        )
    })
}

/// The first operand, unless it is `-`, which means standard input.
fn operand(operands: &[OsString]) -> Option<&OsStr> {
    operands
        .first()
        .map(OsString::as_os_str)
        .filter(|operand| *operand != "-")
}

/// All of standard input, newlines included.
fn standard_input(options: &Options) -> Result<String, Failure> {
    if io::stdin().is_terminal() {
        output::report("reading from the terminal; end with Ctrl-D");
    }
    all(io::stdin().lock(), "standard input", options)
}

/// All the text of a source, which is not read beyond what a bridge would accept.
pub fn all(source: impl Read, name: &str, options: &Options) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    source
        .take(options.max_request + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| usage!("cannot read {name}: {error}"))?;
    if bytes.len() as u64 > options.max_request {
        return Err(Failure::Usage(too_long(name, options)));
    }
    decode(bytes).map_err(|problem| usage!("{name} is {problem}"))
}

/// The message for a text that is too long.
pub fn too_long(name: &str, options: &Options) -> String {
    format!(
        "{name} exceeds the limit of {} bytes; raise it with --max-request, here and for the bridge",
        options.max_request
    )
}

/// Runs `read`, with a message if that takes long: a standard input that a script or ssh left open
/// by mistake never ends.
fn patiently<T>(read: impl FnOnce() -> T) -> T {
    let (done, wait) = mpsc::channel::<()>();
    thread::spawn(move || {
        if wait.recv_timeout(NOTICE_AFTER) == Err(RecvTimeoutError::Timeout) {
            output::report(
                "still waiting for standard input, to append it to the text; use < /dev/null to skip it",
            );
        }
    });
    let outcome = read();
    drop(done);
    outcome
}

/// The first token in a file that nobody else can read.
pub fn token(path: &OsStr) -> Result<String, Failure> {
    let path = Path::new(path);
    let file = File::open(path).map_err(|error| error.to_string());
    let tokens = file.and_then(token_file::read);
    let tokens = tokens.map(|mut tokens| tokens.swap_remove(0));
    tokens.map_err(|reason| usage!("--auth-file: {}: {reason}", path.display()))
}

fn not_empty(text: String) -> Result<String, Failure> {
    if text.is_empty() {
        return Err(usage!(
            "no text given; pass it as an operand or on standard input"
        ));
    }
    Ok(text)
}
