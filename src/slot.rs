//! The model slot: at most one loaded model, and the process that holds it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use crate::client::Unsent;
use crate::failure::{Code, Failure};
use crate::message::{Answer, FromModel, Ready, ToModel, Work};
use crate::process::{Interrupt, ModelProcess, Watch};
use crate::settings::Load;
use crate::system;

/// How long a cancelled request may take to end before its process is ended instead. A token or a
/// prompt chunk takes a fraction of a second at the default settings.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);

/// Why a request has no reply, or not the one that was asked for.
#[derive(Debug, PartialEq)]
pub(crate) enum Unanswered {
    /// It failed; the client is told why.
    Failed(Failure),
    /// The client is gone, and with it what it asked for.
    ClientGone,
    /// The bridge is to stop.
    Stop,
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What tells that a file is the one that was loaded.
#[derive(PartialEq, Clone, Debug)]
struct Identity {
    path: String,
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

struct Loaded {
    identity: Identity,
    process: ModelProcess,
    ready: Ready,
}

/// Takes the pieces of a text while it is being generated.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(&str) -> Result<(), Unsent>;

/// The one model that is loaded, or none.
pub(crate) struct Slot {
    /// How to load models; the path is filled in for each.
    settings: Load,
    loaded: Option<Loaded>,
    last_id: u64,
}

impl Slot {
    /// An empty slot, whose models will be loaded with these settings.
    pub(crate) fn new(settings: Load) -> Self {
        Self {
            settings,
            loaded: None,
            last_id: 0,
        }
    }

    /// The path of the loaded model, as it was given.
    pub(crate) fn model(&self) -> Option<&str> {
        self.loaded
            .as_ref()
            .map(|loaded| loaded.identity.path.as_str())
    }

    /// What the loaded model told of itself.
    pub(crate) fn ready(&self) -> Option<&Ready> {
        self.loaded.as_ref().map(|loaded| &loaded.ready)
    }

    /// The process, if there is one.
    pub(crate) fn process(&self) -> Option<&ModelProcess> {
        self.loaded.as_ref().map(|loaded| &loaded.process)
    }

    /// Ends the process and so gives all its memory back.
    pub(crate) fn free(&mut self) {
        self.loaded = None;
    }

    /// Notices a process that died while nothing was asked of it.
    pub(crate) fn look_after(&mut self) {
        if let Some(loaded) = &mut self.loaded
            && let Err(Interrupt::Died(reason)) = loaded.process.try_receive()
        {
            self.lost(&reason);
        }
    }

    /// Loads a model in a new process, and only then lets go of the one before. At once if it is
    /// the very file that is loaded.
    ///
    /// # Errors
    /// `load_failed` with the reason; the model before is still in place.
    pub(crate) fn load(&mut self, path: &str, watch: Watch<'_>) -> Result<(), Unanswered> {
        self.look_after();
        let failed = |reason: String| {
            let message = format!("Failed to load model: {path}: {reason}");
            Failure::new(Code::LoadFailed, message)
        };
        let identity = identify(path).map_err(failed)?;
        if self.loaded.as_ref().is_some_and(|l| l.identity == identity) {
            return Ok(());
        }
        let mut process = ModelProcess::start(self.settings.verbose)
            .map_err(|error| failed(format!("cannot start the model process: {error}")))?;
        let load = Load {
            path: path.to_string(),
            ..self.settings.clone()
        };
        let answer = process
            .send(ToModel::Load(Box::new(load)), watch)
            .and_then(|()| process.receive(watch, None));
        let ready = match answer {
            Ok(FromModel::Ready(ready)) => *ready,
            Ok(FromModel::Refused(reason)) => {
                let reason = process.first_error().unwrap_or(reason);
                return Err(failed(reason).into());
            }
            Ok(_) => return Err(failed("an answer out of turn".to_string()).into()),
            Err(Interrupt::Died(reason)) => {
                let reason = process.first_error().unwrap_or(reason);
                return Err(failed(reason).into());
            }
            Err(Interrupt::ClientGone) => return Err(Unanswered::ClientGone),
            Err(Interrupt::Stop | Interrupt::TimedOut) => return Err(Unanswered::Stop),
        };
        self.loaded = Some(Loaded {
            identity,
            process,
            ready,
        });
        Ok(())
    }

    /// Has the model work on a request, passing on the pieces of a text that come before the
    /// answer.
    ///
    /// # Errors
    /// `no_model`, `model_died`, or what the model process says.
    pub(crate) fn ask(
        &mut self,
        work: Work,
        watch: Watch<'_>,
        sink: Sink<'_>,
    ) -> Result<Answer, Unanswered> {
        self.last_id += 1;
        let id = self.last_id;
        let process = self.loaded.as_mut().map(|loaded| &mut loaded.process);
        let process = process.ok_or_else(Failure::no_model)?;
        let mut answer = process
            .send(ToModel::Work(id, work), watch)
            .and_then(|()| receive_for(process, id, watch, None));
        loop {
            if let Ok(message) = &answer
                && let Some(warning) = process.incomplete_schema()
            {
                let failure = format!("Field 'json_schema' cannot be used: {warning}");
                if matches!(message, FromModel::Piece(..))
                    && self.cancel(id, watch) == Unanswered::Stop
                {
                    return Err(Unanswered::Stop);
                }
                return Err(Failure::bad_request(failure).into());
            }
            let Ok(FromModel::Piece(_, piece)) = &answer else {
                break;
            };
            answer = match sink(piece) {
                Ok(()) => receive_for(process, id, watch, None),
                Err(Unsent::Lost) => Err(Interrupt::ClientGone),
                Err(Unsent::Stop) => Err(Interrupt::Stop),
            };
        }
        self.conclude(id, answer, watch)
    }

    /// Makes the outcome of request `id` of the last that was heard of it.
    fn conclude(
        &mut self,
        id: u64,
        answer: Result<FromModel, Interrupt>,
        watch: Watch<'_>,
    ) -> Result<Answer, Unanswered> {
        match answer {
            Ok(FromModel::Answer(_, Err(f))) => {
                // What llama.cpp finds wrong with a grammar it writes past its own log.
                let process = self.loaded.as_mut().map(|loaded| &mut loaded.process);
                let words = process.and_then(|p| p.last_words().or_else(|| p.first_error()));
                let message = match words {
                    Some(words) => format!("{}: {words}", f.message),
                    None => f.message,
                };
                Err(Failure::new(f.code, message).into())
            }
            Ok(FromModel::Answer(_, Ok(answer))) => Ok(answer),
            Ok(_) => Err(Failure::new(Code::Internal, "Not an answer").into()),
            Err(Interrupt::Died(reason)) => {
                self.lost(&reason);
                let message = format!("Model process died: {reason}");
                Err(Failure::new(Code::ModelDied, message).into())
            }
            Err(Interrupt::ClientGone) => Err(self.cancel(id, watch)),
            Err(Interrupt::Stop | Interrupt::TimedOut) => Err(Unanswered::Stop),
        }
    }

    /// Ends request `id`, whose client is gone, and if it cannot be ended, its process.
    fn cancel(&mut self, id: u64, watch: Watch<'_>) -> Unanswered {
        let Some(Loaded { process, .. }) = &mut self.loaded else {
            return Unanswered::ClientGone;
        };
        let watch = Watch {
            client: None,
            ..watch
        };
        let deadline = Some(Instant::now() + CANCEL_PATIENCE);
        let mut end = process
            .send(ToModel::Cancel(id), watch)
            .and_then(|()| receive_for(process, id, watch, deadline));
        while let Ok(FromModel::Piece(..)) = end {
            end = receive_for(process, id, watch, deadline);
        }
        match end {
            Ok(_) | Err(Interrupt::ClientGone) => (),
            Err(Interrupt::Stop) => return Unanswered::Stop,
            Err(Interrupt::TimedOut) => self.lost("it did not end a cancelled request"),
            Err(Interrupt::Died(reason)) => self.lost(&reason),
        }
        Unanswered::ClientGone
    }

    fn lost(&mut self, reason: &str) {
        if let Some(Loaded { identity, .. }) = self.loaded.take() {
            system::message(&format!("{}: model process died: {reason}", identity.path));
        }
    }
}

/// The next message that is about request `id`; what still comes of earlier ones is passed over.
fn receive_for(
    process: &mut ModelProcess,
    id: u64,
    watch: Watch<'_>,
    deadline: Option<Instant>,
) -> Result<FromModel, Interrupt> {
    loop {
        let message = process.receive(watch, deadline)?;
        match message {
            FromModel::Piece(about, _) | FromModel::Answer(about, _) if about != id => (),
            message => return Ok(message),
        }
    }
}

/// Looks whether there is a model file at this path at all: llama.cpp says little of one that
/// cannot be read, and a FIFO would hold it for ever.
fn identify(path: &str) -> Result<Identity, String> {
    // A device may act on being opened, so the kind of file is looked at before as well as after.
    expect_regular(&fs::metadata(path).map_err(describe)?)?;
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(describe)?;
    let metadata = file.metadata().map_err(describe)?;
    expect_regular(&metadata)?;
    expect_gguf(&mut file)?;
    Ok(Identity {
        path: path.to_string(),
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

fn describe(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_string(),
        io::ErrorKind::PermissionDenied => "permission denied".to_string(),
        _ => error.to_string(),
    }
}

fn expect_regular(metadata: &fs::Metadata) -> Result<(), String> {
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () if kind.is_char_device() => "a character device",
        () if kind.is_block_device() => "a block device",
        () => "not a regular file",
    };
    Err(format!("is {what}, not a GGUF file"))
}

fn expect_gguf(file: &mut File) -> Result<(), String> {
    let mut magic = Vec::new();
    file.take(4).read_to_end(&mut magic).map_err(describe)?;
    match magic.as_slice() {
        b"GGUF" => Ok(()),
        b"" => Err("not a GGUF file: it is empty".to_string()),
        _ => Err("not a GGUF file: it does not start with the letters GGUF".to_string()),
    }
}
