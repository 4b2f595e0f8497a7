//! What is done for the request at the head of the queue, by its verb. Nothing here waits.

use crate::server::auth::{AuthState, Verdict};
use crate::server::client::Client;
use crate::server::command::Action;
use crate::server::pending_request::{PendingRequest, State};
use crate::server::settings::Context;
use crate::slot::{LoadStatus, Origin};
use llama_cpp_bridge::protocol::reply::Reply;
use llama_cpp_bridge::shared::failure::{Code, Failure};

/// Does what the request asks for, or goes on with it; for a client that is gone only what is done
/// at once. Returns whether that was QUIT.
pub fn carry_out(
    head: &mut PendingRequest,
    client: &Client,
    auth: &mut AuthState,
    context: &mut Context,
) -> bool {
    let now = context.now;
    match &head.state {
        State::Waiting(Action::Tell(tell)) => {
            let reply = tell(context);
            head.answer(&Ok(reply));
        }
        State::Waiting(Action::Load(path)) if !client.gone() => {
            match context.slot.load(path, Origin::Client, now) {
                Ok(LoadStatus::Loaded) => head.answer(&Ok(loaded())),
                Ok(LoadStatus::UnderWay) => {
                    head.start_clock(context.settings.request_timeout, now);
                    head.state = State::Loading;
                }
                Ok(LoadStatus::NotYet) => (),
                Err(failure) => head.answer(&Err(failure)),
            }
        }
        State::Waiting(Action::Free) => {
            context.slot.free(now);
            head.state = State::Freeing;
        }
        State::Waiting(Action::Quit) => {
            context.slot.free(now);
            head.answer(&Ok(Reply::message("Goodbye")));
            return true;
        }
        State::Waiting(Action::Auth(token)) if now >= auth.next() => {
            match auth.check(token, client.peer(), now) {
                Verdict::NotNeeded => head.answer(&Ok(Reply::message("No token is needed here"))),
                Verdict::Valid => head.answer(&Ok(Reply::message("Authenticated"))),
                Verdict::Invalid(until) => {
                    let failure = Failure::new(Code::Denied, "Invalid token");
                    head.state = State::Delayed(until, failure);
                }
            }
        }
        State::Delayed(until, failure) if now >= *until => {
            let failure = failure.clone();
            head.answer(&Err(failure));
        }
        _ => (),
    }
    if matches!(head.state, State::Freeing) {
        free(head, context);
    }
    false
}

/// Answers a FREE once the memory is back, or is not going to be.
fn free(head: &mut PendingRequest, context: &Context) {
    if context.slot.is_free() {
        head.answer(&Ok(Reply::message("Resources freed")));
    } else if let Some(left) = context.slot.left_behind(context.now) {
        let message = format!("No model loaded, but its memory is not back: {left}");
        head.answer(&Err(Failure::new(Code::Timeout, message)));
    }
}

/// What answers a LOAD that succeeded.
pub fn loaded() -> Reply {
    Reply::message("Model loaded successfully")
}
