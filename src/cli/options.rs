//! The command line: names, ranges and defaults of all options.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;

use super::values::{
    choice, limited, list, mode, number, number_or_auto, path, seconds, seconds_or_off, text,
};
use llama_cpp_bridge::shared::endpoint::{
    DEFAULT_MAX_REQUEST, DEFAULT_SOCKET, MAX_REQUEST_LIMIT, SOCKET_VARIABLE,
};
use llama_cpp_bridge::shared::ranges::{self, MAX_CONTEXT};
use llama_cpp_bridge::shared::settings::{
    FlashAttention, KvType, MAX_GUESS, MAX_PARALLEL, ModelParams, Sampling,
};

/// What `--help` prints.
const HELP: &str = include_str!("help.txt");

/// What the program was started for.
pub enum Invocation {
    /// To serve.
    Serve(Box<Options>),
    /// To print this text.
    Print(String),
}

/// Everything that can be set, with its defaults in [`Options::new`].
#[derive(Clone)]
pub struct Options {
    pub socket: PathBuf,
    /// Whether the command line names it.
    pub socket_given: bool,
    /// The model to load before serving.
    pub model: Option<String>,
    /// A file that holds the chat template to use instead of the model's own.
    pub chat_template_file: Option<PathBuf>,
    /// How models are loaded; its path is empty.
    pub load: ModelParams,
    /// Tokens; -1 is until the context is full.
    pub max_tokens: i32,
    pub sampling: Sampling,
    /// `None` draws one for each request.
    pub seed: Option<u32>,
    pub idle_timeout: Duration,
    /// Without a client, after which the bridge ends; `None` is never.
    pub exit_idle: Option<Duration>,
    /// Without a request for the model, after which it is unloaded; `None` is never.
    pub idle_unload: Option<Duration>,
    /// From the turn of a request to its reply; `None` is without end.
    pub request_timeout: Option<Duration>,
    /// Of silence from a model process that has a request.
    pub stall_timeout: Duration,
    pub load_timeout: Duration,
    /// For a client while another one waits; `None` is without end.
    pub turn_limit: Option<Duration>,
    /// A file to keep the output of METRICS in.
    pub metrics_file: Option<PathBuf>,
    /// Bytes.
    pub max_request: usize,
    /// Permission bits.
    pub socket_mode: Option<u32>,
    /// A name or a number.
    pub socket_group: Option<String>,
    /// The users that are served, names or numbers.
    pub allow_uid: Vec<String>,
    /// The groups whose members are served, likewise.
    pub allow_gid: Vec<String>,
    /// A file that holds the tokens of clients.
    pub auth_file: Option<PathBuf>,
    /// Whether the command line has `--preload`, which does nothing any more.
    pub preload: bool,
    /// The program that runs llama.cpp; `None` finds it.
    pub model_program: Option<PathBuf>,
    /// The directory that models have to lie in which clients load.
    pub model_dir: Option<PathBuf>,
    /// The verbs that can be used, in upper case; `None` is all of them.
    pub allow: Option<Vec<String>>,
}

const FLASH_ATTENTION: [(&str, FlashAttention); 3] = [
    ("on", FlashAttention::On),
    ("off", FlashAttention::Off),
    ("auto", FlashAttention::Auto),
];

const CACHE_TYPES: [(&str, KvType); 9] = [
    ("f32", KvType::F32),
    ("f16", KvType::F16),
    ("bf16", KvType::Bf16),
    ("q8_0", KvType::Q8_0),
    ("q4_0", KvType::Q4_0),
    ("q4_1", KvType::Q4_1),
    ("iq4_nl", KvType::Iq4Nl),
    ("q5_0", KvType::Q5_0),
    ("q5_1", KvType::Q5_1),
];

impl Options {
    /// The defaults.
    fn new() -> Self {
        Self {
            socket: PathBuf::from(DEFAULT_SOCKET),
            socket_given: false,
            model: None,
            chat_template_file: None,
            load: ModelParams::default(),
            max_tokens: 256,
            sampling: Sampling::default(),
            seed: None,
            idle_timeout: Duration::from_secs(60),
            exit_idle: None,
            idle_unload: None,
            request_timeout: None,
            stall_timeout: Duration::from_secs(300),
            load_timeout: Duration::from_secs(600),
            turn_limit: None,
            metrics_file: None,
            max_request: DEFAULT_MAX_REQUEST as usize,
            socket_mode: None,
            socket_group: None,
            allow_uid: Vec::new(),
            allow_gid: Vec::new(),
            auth_file: None,
            preload: false,
            model_program: None,
            model_dir: None,
            allow: None,
        }
    }
}

/// Reads the command line and the environment; `verbs` are those that there are. Nothing is opened
/// or looked up here.
///
/// # Errors
/// A sentence that names the option and says what it takes.
pub fn parse(verbs: &[&str]) -> Result<Invocation, lexopt::Error> {
    let mut options = Options::new();
    if let Some(path) = env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()) {
        options.socket = PathBuf::from(path);
    }
    let mut threads_batch = None;
    let mut input = lexopt::Parser::from_env();
    while let Some(argument) = input.next()? {
        let option = spelled(&argument);
        if let Some((limit, set)) = ranges::SAMPLING
            .iter()
            .find(|(limit, _)| argument == Long(limit.option))
        {
            set(&mut options.sampling, limited(&mut input, &option, limit)?);
            continue;
        }
        let load = &mut options.load;
        match argument {
            Short('s') | Long("socket") => {
                options.socket = path(&mut input, &option)?.into();
                options.socket_given = true;
            }
            Short('m') | Long("model") => options.model = Some(text(&mut input, &option)?),
            Short('c') | Long("ctx-size") => {
                load.ctx_size = Some(number(&mut input, &option, 0..=MAX_CONTEXT)?)
            }
            Short('t') | Long("threads") => {
                load.threads = number_or_auto(&mut input, &option, 1..=512)?
            }
            Long("threads-batch") => {
                threads_batch = Some(number_or_auto(&mut input, &option, 1..=512)?)
            }
            Short('b') | Long("batch-size") => {
                load.batch_size = number(&mut input, &option, 1..=MAX_CONTEXT)?
            }
            Long("ubatch-size") => load.ubatch_size = number(&mut input, &option, 1..=MAX_CONTEXT)?,
            Long("gpu-layers") => load.gpu_layers = Some(number(&mut input, &option, 0..=10_000)?),
            Short('n') | Long("max-tokens") => {
                options.max_tokens = limited(&mut input, &option, &ranges::MAX_TOKENS)? as i32
            }
            Long("seed") => {
                let seed = limited(&mut input, &option, &ranges::SEED)?;
                options.seed = u32::try_from(seed as i64).ok();
            }
            Long("no-mmap") => load.mmap = false,
            Long("force-load") => load.force = true,
            Long("mlock") => load.mlock = true,
            Long("flash-attn") => load.flash_attn = choice(&mut input, &option, &FLASH_ATTENTION)?,
            Long("cache-type-k") => load.cache_type_k = choice(&mut input, &option, &CACHE_TYPES)?,
            Long("cache-type-v") => load.cache_type_v = choice(&mut input, &option, &CACHE_TYPES)?,
            Long("swa-full") => load.swa_full = true,
            Long("chat-template-file") => {
                options.chat_template_file = Some(path(&mut input, &option)?.into());
            }
            Long("no-sandbox") => load.sandbox = false,
            Long("state-dir") => load.state_dir = Some(text(&mut input, &option)?),
            Long("state-limit") => load.state_limit = number(&mut input, &option, 1..=1 << 50)?,
            Long("idle-timeout") => options.idle_timeout = seconds(&mut input, &option)?,
            Long("exit-idle") => options.exit_idle = seconds_or_off(&mut input, &option)?,
            Long("idle-unload") => options.idle_unload = seconds_or_off(&mut input, &option)?,
            Long("turn-limit") => options.turn_limit = seconds_or_off(&mut input, &option)?,
            Long("request-timeout") => {
                options.request_timeout = seconds_or_off(&mut input, &option)?
            }
            Long("stall-timeout") => options.stall_timeout = seconds(&mut input, &option)?,
            Long("load-timeout") => options.load_timeout = seconds(&mut input, &option)?,
            Long("parallel") => load.parallel = number(&mut input, &option, 1..=MAX_PARALLEL)?,
            Long("spec-ngram") => load.spec_ngram = number(&mut input, &option, 0..=MAX_GUESS)?,
            Long("max-request") => {
                options.max_request =
                    number(&mut input, &option, 1024..=MAX_REQUEST_LIMIT as usize)?
            }
            Long("socket-mode") => options.socket_mode = Some(mode(&mut input, &option)?),
            Long("socket-group") => options.socket_group = Some(text(&mut input, &option)?),
            Long("allow-uid") => options.allow_uid.extend(list(&mut input, &option)?),
            Long("allow-gid") => options.allow_gid.extend(list(&mut input, &option)?),
            Long("auth-file") => options.auth_file = Some(path(&mut input, &option)?.into()),
            Long("preload") => {
                path(&mut input, &option)?;
                options.preload = true;
            }
            Long("model-program") => {
                options.model_program = Some(path(&mut input, &option)?.into());
            }
            Long("model-dir") => options.model_dir = Some(path(&mut input, &option)?.into()),
            Long("allow") => {
                let more = super::values::verbs(&mut input, &option, verbs)?;
                options.allow.get_or_insert_default().extend(more);
            }
            Long("metrics-file") => {
                options.metrics_file = Some(path(&mut input, &option)?.into());
            }
            Short('v') | Long("verbose") => load.verbose = true,
            Short('h') | Long("help") => return Ok(Invocation::Print(HELP.to_string())),
            Short('V') | Long("version") => return Ok(Invocation::Print(version())),
            other => return Err(other.unexpected()),
        }
    }
    options.load.threads_batch = threads_batch.unwrap_or(options.load.threads);
    Ok(Invocation::Serve(Box::new(options)))
}

fn version() -> String {
    format!("{} {}\n", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
}

fn spelled(argument: &lexopt::Arg<'_>) -> String {
    match argument {
        Short(letter) => format!("-{letter}"),
        Long(name) => format!("--{name}"),
        lexopt::Arg::Value(value) => value.to_string_lossy().into_owned(),
    }
}
