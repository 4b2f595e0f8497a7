//! `llama-cpp-bridge-model` is llama.cpp behind the socket pair of llama-cpp-bridge, and nothing else. It
//! loads the one model that the bridge names, serves the requests that follow, and exits when the
//! socket is closed.
//!
//! [`decode`] has the loop. For each request for text it has a sequence of the context from [`kv`],
//! which knows what is cached; [`sampling`] chooses its tokens, and [`text`] translates these from and
//! to text. [`embedding`] evaluates texts in a context of its own. [`tuning`] decides how many threads
//! a step gets and how many tokens it takes. [`sandbox`] is entered before a model is read.
//!
//! A room (a folder) shows others what its `mod.rs` names and nothing else: its files are private
//! modules, in which `pub` is what others use, and `pub(super)` what the room uses itself.

// In a program nothing can be reached from outside; the walls are the private modules.
#![allow(unreachable_pub)]

mod bridge_link;
mod decode;
mod embedding;
mod kv;
mod load;
mod log;
mod memory_check;
mod openmp;
mod sampling;
mod sandbox;
mod text;
mod tuning;

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_bridge::shared::build;
use llama_cpp_bridge::shared::link::{Link, Received};
use llama_cpp_bridge::shared::message::{FromModel, Ready, ToModel};
use llama_cpp_bridge::shared::sentence::shortened;
use llama_cpp_bridge::shared::settings::ModelParams;
use llama_cpp_bridge::sys;

use bridge_link::next_message;
use decode::Engine;
use kv::MAX_CHECKPOINT_BYTES;
use memory_check::MemoryCheck;
use text::Template;

/// Exit status if there is no bridge, as for a wrong command line.
const USAGE: u8 = 2;

/// Memory that the process may take for requests, besides checkpoints and a second context for
/// embeddings: some ten times what the largest grammar or prompt takes. If a request takes more, only
/// that request fails, at worst together with this process, but not the machine.
const REQUEST_BYTES: u64 = 1 << 30;

/// Whether this is a build for an accelerator, whose driver opens devices and loads libraries.
const HAS_DRIVER: bool = cfg!(any(
    feature = "cuda",
    feature = "vulkan",
    feature = "metal",
    feature = "rocm"
));

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == "--version" || word == "-V")
    {
        let line = format!(
            "{}\n",
            build::Build::this().describe(env!("CARGO_BIN_NAME"))
        );
        return match io::stdout().write_all(line.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let Some(mut link) = link() else {
        eprintln!("llama-cpp-bridge-model: started by llama-cpp-bridge(1), not by hand");
        return ExitCode::from(USAGE);
    };
    match serve(&mut link) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("llama-cpp-bridge-model: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The socket on standard input; `None` if that is something else.
fn link() -> Option<Link> {
    let input: OwnedFd = io::stdin().as_fd().try_clone_to_owned().ok()?;
    let stream = UnixStream::from(input);
    stream.peer_addr().ok()?;
    Link::new(stream).ok()
}

/// Sends which build this is, and serves a bridge of the same build.
fn serve(link: &mut Link) -> Result<(), String> {
    sys::process::live_and_die_with_parent();
    let this = build::Build::this();
    link.send(FromModel::Hello(this.clone()))
        .map_err(|error| error.to_string())?;
    match next_message(link, true)? {
        Received::Message(ToModel::Hello(bridge)) if bridge == this => (),
        Received::Message(ToModel::Hello(bridge)) => {
            let (bridge, this) = (bridge.describe("the bridge"), this.describe("this program"));
            return Err(format!("{bridge}, and {this}"));
        }
        Received::End => return Ok(()),
        _ => return Err("the bridge did not send its build".to_string()),
    }
    match next_message(link, true)? {
        Received::Message(ToModel::Load(load)) => {
            log::capture(load.verbose);
            load_and_serve(&load, link)
        }
        Received::End => Ok(()),
        _ => Err("the bridge did not send a model to load".to_string()),
    }
}

/// Loads the model and serves it until the bridge is gone; or reports why it could not be loaded.
fn load_and_serve(load: &ModelParams, link: &mut Link) -> Result<(), String> {
    let lost = |error: io::Error| format!("the bridge is gone: {error}");
    let (backend, mut sandbox_lacks) = confined_backend(load, link)?;
    let memory = MemoryCheck::new(load, backend.supports_gpu_offload());
    let model = memory
        .for_weights()
        .and_then(|()| load::model(&backend, load));
    let model = match model {
        Ok(model) => model,
        Err(reason) => return link.send(FromModel::Refused(reason)).map_err(lost),
    };
    let context_size = load::context_size(&model, load);
    if let Some(asked) = load.ctx_size.filter(|asked| context_size < *asked) {
        let notice = format!(
            "{}: --ctx-size {asked} exceeds the model's {context_size}; using {context_size}",
            load.path
        );
        link.send(FromModel::Notice(notice)).map_err(lost)?;
    }
    let before = sys::process::data_size();
    let engine = memory
        .for_context(&model, load, context_size)
        .and_then(|()| engine(&backend, &model, load, context_size));
    let mut engine = match engine {
        Ok(engine) => engine,
        Err(reason) => return link.send(FromModel::Refused(reason)).map_err(lost),
    };
    // A GPU's driver takes as much memory of its own as it likes.
    if !backend.supports_gpu_offload()
        && let (Some(before), Some(now)) = (before, sys::process::data_size())
    {
        let requests = REQUEST_BYTES + MAX_CHECKPOINT_BYTES as u64 + now.saturating_sub(before);
        let all = now.saturating_add(requests);
        sys::process::limit_data(all.saturating_add(tuning::stacks(load)));
    }
    if load.sandbox {
        sandbox_lacks.extend(report(sandbox::settle(HAS_DRIVER), link)?);
    }
    let ready = Ready {
        sandbox_lacks,
        ..describe(&model, load, context_size)
    };
    link.send(FromModel::Ready(Box::new(ready))).map_err(lost)?;
    engine.serve(link)
}

/// llama.cpp, inside the sandbox if there is to be one; and what that lacks. A driver looks for its
/// devices, and opens them, before it is entered.
fn confined_backend(
    load: &ModelParams,
    link: &mut Link,
) -> Result<(LlamaBackend, Vec<String>), String> {
    let init = || LlamaBackend::init().map_err(|error| error.to_string());
    if !load.sandbox {
        return Ok((init()?, Vec::new()));
    }
    if HAS_DRIVER {
        let backend = init()?;
        let _ = llama_cpp_2::list_llama_ggml_backend_devices();
        let lacks = report(sandbox::enter(load, HAS_DRIVER), link)?;
        return Ok((backend, lacks.into_iter().collect()));
    }
    let lacks = report(sandbox::enter(load, HAS_DRIVER), link)?;
    Ok((init()?, lacks.into_iter().collect()))
}

/// Tells the bridge what the sandbox lacks, though the kernel has it.
fn report(entered: Result<(), String>, link: &mut Link) -> Result<Option<String>, String> {
    let Err(lacking) = entered else {
        return Ok(None);
    };
    let lacking = shortened(lacking);
    let notice = format!("the sandbox of the model process is incomplete: {lacking}");
    link.send(FromModel::Notice(shortened(notice)))
        .map_err(|error| format!("the bridge is gone: {error}"))?;
    Ok(Some(lacking))
}

/// Creates the context of a model, and evaluates a token in it.
fn engine<'model>(
    backend: &'model LlamaBackend,
    model: &'model LlamaModel,
    load: &'model ModelParams,
    context_size: u32,
) -> Result<Engine<'model>, String> {
    let context = load::context(backend, model, load, context_size)?;
    // What has been filled so far are the weights and the KV cache, which are read as a whole.
    sys::process::stop_huge_pages();
    let template = template(model, load);
    let mut engine = Engine::new(backend, model, context, load, context_size, template)?;
    engine.try_out()?;
    Ok(engine)
}

/// The chat template: that of --chat-template-file, else the model's own.
fn template(model: &LlamaModel, load: &ModelParams) -> Option<Template> {
    let own = || load::metadata(model, "tokenizer.chat_template");
    let source = load.chat_template.clone().or_else(own)?;
    let vocabulary = model.vocab();
    Some(Template::new(
        source,
        text::token_text(model, vocabulary.bos()),
        text::token_text(model, vocabulary.eos()),
        text::special_texts(model),
    ))
}

fn describe(model: &LlamaModel, load: &ModelParams, context_size: u32) -> Ready {
    let architecture = load::architecture(model);
    Ready {
        description: load::metadata(model, "general.name")
            .map_or_else(|| architecture.clone(), shortened),
        architecture,
        parameters: model.n_params(),
        size_bytes: model.size(),
        context_size,
        training_context_size: model.n_ctx_train(),
        embedding_size: model.n_embd_out().unsigned_abs(),
        vocabulary_size: model.n_vocab().unsigned_abs(),
        chat_template: template(model, load).is_some(),
        sandbox_lacks: Vec::new(),
    }
}
