//! The commands for saved states, which the model process keeps: whether there are any here, and
//! what a name is.

use super::{Action, Question};
use crate::cli::Options;
use llama_cpp_bridge::protocol::reply::Reply;
use llama_cpp_bridge::shared::failure::{Code, Failure};
use llama_cpp_bridge::shared::message::{Answer, Work};

/// What answers both without an argument.
pub const NO_NAME: &str = "No name provided";

/// Characters of the name of a saved state at the most: so its file has a name that every file
/// system takes.
const LONGEST_NAME: usize = 64;

/// SAVE: the model stores what it evaluated last.
pub fn save(name: &str, options: &Options) -> Result<Action, Failure> {
    state_name(name, options)?;
    Ok(Action::AskAlone(Question {
        work: Work::Save(name.to_string()),
        reply: |answer| match answer {
            Answer::State(state) => Some(Reply::State("State saved", state)),
            _ => None,
        },
    }))
}

/// RESTORE: the model brings a stored text back.
pub fn restore(name: &str, options: &Options) -> Result<Action, Failure> {
    state_name(name, options)?;
    Ok(Action::AskAlone(Question {
        work: Work::Restore(name.to_string()),
        reply: |answer| match answer {
            Answer::State(state) => Some(Reply::State("State restored", state)),
            _ => None,
        },
    }))
}

/// Looks whether this is the name of a saved state, and whether there can be any.
fn state_name(name: &str, options: &Options) -> Result<(), Failure> {
    if options.load.state_dir.is_none() {
        let message = "The bridge was started without --state-dir and keeps no states";
        return Err(Failure::new(Code::Denied, message));
    }
    let takes = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.len() <= LONGEST_NAME && name.bytes().all(takes) && name != "." && name != ".." {
        return Ok(());
    }
    Err(Failure::bad_request(format!(
        "A name of a state is 1 to {LONGEST_NAME} of the characters A-Z a-z 0-9 . _ -, and not \
         '.' or '..'"
    )))
}
