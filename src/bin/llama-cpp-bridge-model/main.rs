//! The model process: llama.cpp, and nothing else. It loads the one model that its first message
//! names, works on the requests that follow, and ends with the socket that joins it to the bridge.

mod bound;
mod cache;
#[cfg(target_os = "linux")]
mod calls;
mod cells;
#[cfg(feature = "chat-template")]
mod chat;
#[cfg(not(feature = "chat-template"))]
#[path = "no_chat.rs"]
mod chat;
mod checkpoints;
mod embedding;
mod embeds;
mod engine;
mod fingerprint;
mod gain;
mod gbnf;
mod grammar;
mod guess;
mod lexicon;
mod likeliest;
mod load;
mod log;
mod need;
#[cfg(feature = "chat-template")]
mod neutral;
mod pace;
mod queue;
mod reports;
mod sampling;
#[cfg(target_os = "linux")]
mod sandbox;
#[cfg(not(target_os = "linux"))]
#[path = "no_sandbox.rs"]
mod sandbox;
mod sequence;
mod share;
mod shelf;
mod special;
mod state;
mod state_dir;
mod text;
mod threads;
mod vocabulary;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;

use crate::link::{Link, Received};
use crate::message::{FromModel, Ready, ToModel};
use crate::poll::{PollFd, poll};
use crate::process::MODEL_PROCESS_ARGUMENT;
use crate::settings::Load;
use crate::system;
use chat::Template;
use engine::Engine;
use need::Room;

/// Bytes that the process may take for requests, besides checkpoints and a second context for
/// embeddings: some ten times what the largest grammar or prompt takes. Where a request takes more,
/// only that request fails, at worst together with this process, and not the machine.
const ROOM: u64 = 1 << 30;

/// Whether this is a build for an accelerator. Its driver opens devices, loads libraries and may start
/// programs, at the load and later, so that there only new privileges are given up, after the load.
const HAS_DRIVER: bool = cfg!(any(
    feature = "cuda",
    feature = "vulkan",
    feature = "metal",
    feature = "rocm"
));

/// Runs the model process on the socket that is its standard input.
///
/// # Errors
/// A standard input that is not the bridge's.
pub(crate) fn run() -> Result<(), String> {
    system::live_and_die_with_parent();
    let foreign = || format!("{MODEL_PROCESS_ARGUMENT} is for the bridge's own use");
    let input: OwnedFd = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|_| foreign())?;
    let stream = UnixStream::from(input);
    stream.local_addr().map_err(|_| foreign())?;
    let mut link = Link::new(stream).map_err(|_| foreign())?;
    match next_message(&mut link, true).map_err(|_| foreign())? {
        Received::Message(ToModel::Load(load)) => {
            log::capture(load.verbose);
            hold(&load, &mut link)
        }
        Received::End => Ok(()),
        _ => Err(foreign()),
    }
}

/// Loads the model and serves it to its end; or tells why it could not be loaded.
fn hold(load: &Load, link: &mut Link) -> Result<(), String> {
    let lost = |error: io::Error| format!("the bridge is gone: {error}");
    if load.sandbox
        && !HAS_DRIVER
        && let Err(lacking) = sandbox::enter(load)
    {
        let notice = format!("the model process runs without its whole sandbox: {lacking}");
        link.send(FromModel::Notice(notice)).map_err(lost)?;
    }
    let backend = LlamaBackend::init().map_err(|error| error.to_string())?;
    let room = Room::look(load, backend.supports_gpu_offload());
    let model = room
        .for_weights()
        .and_then(|()| load::model(&backend, load));
    let model = match model {
        Ok(model) => model,
        Err(reason) => return link.send(FromModel::Refused(reason)).map_err(lost),
    };
    let context_size = load::context_size(&model, load);
    if let Some(asked) = load.ctx_size.filter(|asked| context_size < *asked) {
        let notice = format!(
            "{}: a context of {asked} tokens is more than it can have; it gets {context_size}",
            load.path
        );
        link.send(FromModel::Notice(notice)).map_err(lost)?;
    }
    let before = system::data_size();
    let engine = room.for_context(&model, load, context_size);
    let engine = engine
        .and_then(|()| load::context(&backend, &model, load, context_size))
        .and_then(|context| {
            // What is filled until now are the weights and the KV cache, and those are read whole.
            system::stop_huge_pages();
            let template = template(&model, load);
            Engine::new(&backend, &model, context, load, context_size, template)
        })
        .and_then(|mut engine| engine.try_out().map(|()| engine));
    match engine {
        Ok(mut engine) => {
            if load.sandbox {
                system::give_up_new_privileges();
            }
            // A GPU's driver takes memory of its own, as much as it likes.
            if !backend.supports_gpu_offload()
                && let (Some(before), Some(now)) = (before, system::data_size())
            {
                let room = ROOM + checkpoints::LARGEST as u64;
                system::limit_data(now + now.saturating_sub(before) + room);
            }
            let ready = describe(&model, load, context_size);
            link.send(FromModel::Ready(Box::new(ready))).map_err(lost)?;
            engine.serve(link)
        }
        Err(reason) => link.send(FromModel::Refused(reason)).map_err(lost),
    }
}

/// The chat template: the one that was given, else the model's own.
fn template(model: &LlamaModel, load: &Load) -> Option<Template> {
    let own = || load::metadata(model, "tokenizer.chat_template");
    let source = load.chat_template.clone().or_else(own)?;
    let vocabulary = model.vocab();
    Some(Template::new(
        source,
        vocabulary::token_text(model, vocabulary.bos()),
        vocabulary::token_text(model, vocabulary.eos()),
        vocabulary::special_texts(model),
    ))
}

fn describe(model: &LlamaModel, load: &Load, context_size: u32) -> Ready {
    let architecture = load::architecture(model);
    Ready {
        description: load::metadata(model, "general.name").unwrap_or_else(|| architecture.clone()),
        architecture,
        parameters: model.n_params(),
        size_bytes: model.size(),
        context_size,
        training_context_size: model.n_ctx_train(),
        embedding_size: model.n_embd_out().unsigned_abs(),
        vocabulary_size: model.n_vocab().unsigned_abs(),
        chat_template: template(model, load).is_some(),
    }
}

/// The next message of the bridge. With `wait`, never [`Received::Nothing`].
fn next_message(link: &mut Link, wait: bool) -> Result<Received<ToModel>, String> {
    loop {
        match link.receive().map_err(|error| error.to_string())? {
            Received::Nothing if wait => {
                let mut fds = [PollFd::readable(link.fd())];
                poll(&mut fds, None).map_err(|error| error.to_string())?;
            }
            received => return Ok(received),
        }
    }
}
