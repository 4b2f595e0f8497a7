//! The settings of a running bridge: its options, with all that they name looked up and read.

use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::cli::Options;
use crate::server::access::Access;
use crate::server::metrics::Metrics;
use crate::slot::{Limits, ModelDir, ModelProgram, Slot};
use llama_cpp_bridge::shared::sandbox::Sandbox;
use llama_cpp_bridge::shared::settings::{ModelParams, Sampling};
use llama_cpp_bridge::sys;

/// What requests and clients are held to. Nothing changes it while the bridge runs.
pub struct Settings {
    /// Whom the bridge serves.
    pub access: Rc<Access>,
    /// How models are loaded.
    pub params: ModelParams,
    /// How far the model process is confined.
    pub sandbox: Sandbox,
    /// Tokens of an answer unless its request says otherwise; -1 is until the context is full.
    pub max_tokens: i32,
    /// How tokens are chosen unless a request says otherwise.
    pub sampling: Sampling,
    /// `None` draws one for each request.
    pub seed: Option<u32>,
    pub idle_timeout: Duration,
    pub exit_idle: Option<Duration>,
    pub request_timeout: Option<Duration>,
    pub turn_limit: Option<Duration>,
    /// Bytes.
    pub max_request: usize,
    /// The verbs that can be used, in upper case; `None` is all of them.
    pub allow: Option<Vec<String>>,
}

impl Settings {
    /// Looks up what the options name.
    ///
    /// # Errors
    /// A sentence that names the option, and what is wrong with its file, directory, user or group.
    pub fn resolve(options: &Options) -> Result<Self, String> {
        let mut params = options.load.clone();
        if let Some(path) = &options.chat_template_file {
            let template = fs::read_to_string(path)
                .map_err(|error| format!("--chat-template-file: {}: {error}", path.display()))?;
            params.chat_template = Some(template);
        }
        if let Some(path) = &options.load.state_dir {
            params.state_dir = Some(directory("--state-dir", path)?);
        }
        let tokens = options.auth_file.as_deref();
        let access = Access::open(&options.allow_uid, &options.allow_gid, tokens)?;
        if tokens.is_some() {
            // The tokens would be in it.
            sys::process::leave_no_core();
        }
        Ok(Self {
            access: Rc::new(access),
            sandbox: Sandbox::here(params.sandbox),
            params,
            max_tokens: options.max_tokens,
            sampling: options.sampling.clone(),
            seed: options.seed,
            idle_timeout: options.idle_timeout,
            exit_idle: options.exit_idle,
            request_timeout: options.request_timeout,
            turn_limit: options.turn_limit,
            max_request: options.max_request,
            allow: options.allow.clone(),
        })
    }

    /// An empty slot for models that are loaded as these settings say.
    ///
    /// # Errors
    /// A sentence: what is wrong with the directory of models, or the model program.
    pub fn open_slot(&self, options: &Options) -> Result<Slot, String> {
        let open = |path: &Path| {
            ModelDir::open(path)
                .map_err(|error| format!("--model-dir: {}: {error}", path.display()))
        };
        let models = options.model_dir.as_deref().map(open).transpose()?;
        let program = ModelProgram::open(options.model_program.as_deref())?;
        let limits = Limits {
            load: options.load_timeout,
            stall: options.stall_timeout,
            idle: options.idle_unload,
        };
        Ok(Slot::new(self.params.clone(), program, models, limits))
    }
}

/// What each step of the loop works with.
pub struct Context {
    pub slot: Slot,
    pub settings: Settings,
    pub metrics: Metrics,
    /// The time of this step.
    pub now: Instant,
}

impl Context {
    /// What METRICS reports.
    pub fn metrics_text(&self) -> String {
        self.metrics.text(&self.slot)
    }
}

/// The absolute path of a directory that an option names.
fn directory(option: &str, path: &str) -> Result<String, String> {
    let failed = |reason: &str| format!("{option}: {path}: {reason}");
    let real = fs::canonicalize(path).map_err(|error| failed(&error.to_string()))?;
    if !real.is_dir() {
        return Err(failed("is not a directory"));
    }
    let real = real.into_os_string().into_string();
    real.map_err(|_| failed("its absolute path is not UTF-8"))
}
