//! The server: one loop, which waits in one place for whatever happens next, and hands it to the
//! state that it belongs to. There is one client at a time; the next ones wait in the queue of
//! the socket.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::cli::Options;
use crate::server::access::Access;
use crate::server::client::Client;
use crate::server::command;
use crate::server::listener::{Place, Socket};
use crate::server::metrics::Metrics;
use crate::server::metrics::file::MetricsFile;
use crate::server::rejected::RejectedClients;
use crate::server::session::Session;
use crate::slot::ModelDir;
use crate::slot::ModelProgram;
use crate::slot::Origin;
use crate::slot::Preload;
use crate::slot::{Event, Limits, LoadStatus, Slot};
use llama_cpp_bridge::shared::failure::Failure;
use llama_cpp_bridge::sys;
use llama_cpp_bridge::sys::log::{self, Level};
use llama_cpp_bridge::sys::poll::{PollFd, poll};
use llama_cpp_bridge::sys::signals::Signals;
use llama_cpp_bridge::sys::systemd::activation;
use llama_cpp_bridge::sys::systemd::notify::Notifier;

/// How long to wait before accepting again after it failed.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Everything that the loop looks after.
struct Bridge {
    options: Options,
    access: Rc<Access>,
    signals: Signals,
    slot: Slot,
    /// `None` until the model of the command line is loaded.
    socket: Option<Socket>,
    session: Option<Session>,
    /// When the last client left, or the bridge began to serve.
    unused_since: Instant,
    notifier: Notifier,
    metrics: Metrics,
    metrics_file: Option<MetricsFile>,
    refused_clients: RejectedClients,
    /// `None` until the bridge serves.
    preload: Option<Preload>,
    /// Until when no client is accepted, because that failed.
    accept_again: Option<Instant>,
    /// Before that no token of a client is looked at, because one was wrong.
    next_token: Instant,
    /// Why the model of the command line could not be loaded.
    refused: Option<Failure>,
    /// When the bridge stops, whether its last reply was taken or not.
    stop_at: Option<Instant>,
}

/// Serves until it is told to stop.
///
/// # Errors
/// What kept it from serving.
pub fn run(mut options: Options) -> Result<(), String> {
    let passed = activation::take()?;
    let signals = Signals::catch().map_err(|error| format!("signals: {error}"))?;
    if let Some(path) = &options.chat_template_file {
        let template = fs::read_to_string(path)
            .map_err(|error| format!("--chat-template-file: {}: {error}", path.display()))?;
        options.load.chat_template = Some(template);
    }
    let tokens = options.auth_file.as_deref();
    let access = Access::open(&options.allow_uid, &options.allow_gid, tokens)?;
    if tokens.is_some() {
        // The tokens would stand in it.
        sys::process::leave_no_core();
    }
    let models = options.model_dir.as_deref().map(|path| {
        ModelDir::open(path).map_err(|error| format!("--model-dir: {}: {error}", path.display()))
    });
    let models = models.transpose()?;
    if let Some(path) = &options.load.state_dir {
        options.load.state_dir = Some(directory("--state-dir", path)?);
    }
    let program = ModelProgram::open(options.model_program.as_deref())?;
    let place = Place::find(passed, &options)?;
    let limits = Limits {
        load: options.load_timeout,
        stall: options.stall_timeout,
        idle: options.idle_unload,
    };
    let mut bridge = Bridge {
        access: Rc::new(access),
        signals,
        slot: Slot::new(options.load.clone(), program, models, limits),
        socket: None,
        session: None,
        unused_since: Instant::now(),
        notifier: Notifier::from_environment(Instant::now()),
        metrics: Metrics::new(place.name(), command::counted()),
        metrics_file: None,
        refused_clients: RejectedClients::default(),
        preload: None,
        accept_again: None,
        next_token: Instant::now(),
        refused: None,
        stop_at: None,
        options,
    };
    bridge.open_metrics_file()?;
    bridge.load_first()?;
    if bridge.stop_at.is_some() {
        return Ok(());
    }
    let socket = place.listen(&bridge.options)?;
    announce(&socket.name)?;
    bridge.socket = Some(socket);
    bridge.unused_since = Instant::now();
    bridge.notifier.ready();
    bridge.tell(bridge.unused_since);
    bridge.preload = Some(Preload::new(&bridge.options.preload, Instant::now()));
    while !bridge.stopped() {
        bridge.turn()?;
    }
    Ok(())
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

fn announce(name: &str) -> Result<(), String> {
    let line = format!("listening on {name}\n");
    let mut output = io::stdout();
    output
        .write_all(line.as_bytes())
        .and_then(|()| output.flush())
        .map_err(|error| format!("standard output: {error}"))
}

/// What a wait ended with.
#[derive(Default)]
struct Woken {
    signal: bool,
    model: bool,
    /// Somebody waits in the queue of the socket.
    knocking: bool,
    readable: bool,
    gone: bool,
}

impl Woken {
    /// Whether something has happened, and it was not a deadline that ended the wait.
    fn by_something(&self) -> bool {
        self.signal || self.model || self.knocking || self.readable || self.gone
    }
}

impl Bridge {
    /// Writes the metrics file for the first time, if there is to be one.
    fn open_metrics_file(&mut self) -> Result<(), String> {
        if let Some(path) = &self.options.metrics_file {
            let text = self.metrics.text(&self.slot);
            let file = MetricsFile::new(path, &text, Instant::now())?;
            self.metrics_file = Some(file);
        }
        Ok(())
    }

    /// Loads the model of the command line, if there is one.
    fn load_first(&mut self) -> Result<(), String> {
        let Some(path) = self.options.model.clone() else {
            return Ok(());
        };
        let begun = self.slot.load(&path, Origin::Owner, Instant::now());
        let mut loading = begun.map_err(|failure| failure.message)? != LoadStatus::Loaded;
        while loading && self.stop_at.is_none() {
            self.turn()?;
            loading = self.slot.is_loading();
        }
        match self.refused.take() {
            Some(failure) => Err(failure.message),
            None => Ok(()),
        }
    }

    fn stopped(&self) -> bool {
        let farewell = self.session.as_ref().is_some_and(|s| !s.over());
        self.stop_at
            .is_some_and(|at| !farewell || at <= Instant::now())
    }

    /// Waits once, then does all that can be done without waiting.
    fn turn(&mut self) -> Result<(), String> {
        let woken = self.wait().map_err(|error| format!("poll: {error}"))?;
        let now = Instant::now();
        if woken.signal && self.signals.stop_requested() {
            if let Some(session) = &mut self.session {
                session.say_goodbye(now);
            }
            self.stop_at = Some(now);
            self.notifier.stopping(now);
            return Ok(());
        }
        self.refused_clients.turn(now);
        if let Some(preload) = &mut self.preload {
            preload.turn(now);
        }
        self.hear_model(woken.model, now);
        if woken.knocking {
            self.somebody_waits(now);
        }
        self.serve(&woken, now);
        if !woken.knocking {
            // Behind one that was refused there may be another, who is lost if nobody listens.
            self.leave_if_unused(now);
        }
        self.tell(now);
        if let Some(file) = &mut self.metrics_file {
            if woken.by_something() {
                file.touch();
            }
            file.turn(|| self.metrics.text(&self.slot), now);
        }
        Ok(())
    }

    /// When the bridge ends, if nobody comes until then.
    fn leaves_at(&self) -> Option<Instant> {
        let used = self.session.is_some() || self.socket.is_none() || self.stop_at.is_some();
        // Somebody is there, and could not be accepted yet.
        let used = used || self.accept_again.is_some();
        let limit = self.options.exit_idle.filter(|_| !used);
        limit.map(|limit| self.unused_since + limit)
    }

    fn leave_if_unused(&mut self, now: Instant) {
        if let Some(limit) = self.options.exit_idle
            && self.leaves_at().is_some_and(|at| at <= now)
        {
            let message = format!("ends: no client for {} s", limit.as_secs());
            log::write(Level::Info, &message);
            self.stop_at = Some(now);
        }
    }

    /// Tells the service manager what the bridge does.
    fn tell(&mut self, now: Instant) {
        if self.stop_at.is_some() {
            return self.notifier.stopping(now);
        }
        let (slot, session) = (&self.slot, self.session.as_ref());
        let asked = session.map_or(0, Session::questions);
        self.notifier
            .turn(now, || match (slot.loads(), slot.model()) {
                (Some(path), _) => format!("{path}: loading"),
                (None, None) => "no model loaded".to_string(),
                (None, Some(model)) => {
                    let doing = match asked {
                        0 if slot.rests() => "resting".to_string(),
                        0 => "idle".to_string(),
                        1 => "answering 1 request".to_string(),
                        many => format!("answering {many} requests"),
                    };
                    format!("{}: {doing}", model.path())
                }
            });
    }

    /// The one place that waits: for a signal, the model process, a client, or the next deadline.
    fn wait(&self) -> io::Result<Woken> {
        let now = Instant::now();
        let mut deadline = earliest(self.slot.deadline(), self.stop_at);
        deadline = earliest(deadline, self.refused_clients.deadline());
        deadline = earliest(deadline, self.leaves_at());
        deadline = earliest(deadline, self.notifier.deadline(now));
        let file = self.metrics_file.as_ref();
        deadline = earliest(deadline, file.map(MetricsFile::deadline));
        let preload = self.preload.as_ref();
        deadline = earliest(deadline, preload.and_then(Preload::deadline));
        let mut fds = vec![PollFd::readable(self.signals.fd())];
        fds.extend(self.slot.polls());
        let model = 1..fds.len();
        let mut client = None;
        let mut listens = self.accept_again.is_none_or(|at| at <= now) && self.stop_at.is_none();
        if !listens {
            deadline = earliest(deadline, self.accept_again);
        }
        if let Some(session) = &self.session {
            client = Some(fds.len());
            fds.push(session.poll(&self.options));
            deadline = earliest(deadline, session.deadline());
            // Whether another one waits matters when this client's time is over, and once to those
            // who count how long others wait.
            let gives_way = session.gives_way_at(&self.options);
            let over = gives_way.is_some_and(|at| at <= now);
            if !over {
                deadline = earliest(deadline, gives_way);
            }
            listens &= over || !self.metrics.knows_who_waits();
        }
        let socket = self.socket.as_ref().filter(|_| listens);
        let knocks = socket.map(|_| fds.len());
        fds.extend(socket.map(|socket| PollFd::readable(socket.listener.as_fd())));
        poll(
            &mut fds,
            deadline.map(|at| at.saturating_duration_since(now)),
        )?;
        let client = client.map(|at| &fds[at]);
        Ok(Woken {
            signal: fds[0].ready(),
            model: fds[model].iter().any(PollFd::ready),
            knocking: knocks.is_some_and(|at| fds[at].ready()),
            readable: client.is_some_and(PollFd::has_input),
            gone: client.is_some_and(PollFd::gone),
        })
    }

    fn hear_model(&mut self, said: bool, now: Instant) {
        let wanted = self.session.as_ref().is_some_and(Session::wants_model);
        for event in self.slot.turn(now, said, wanted) {
            let unheard = match &event {
                Event::LoadEnded(Err(failure)) => Some(failure.clone()),
                _ => None,
            };
            let heard = self.session.as_mut().is_some_and(|s| s.hear(event));
            if let Some(failure) = unheard.filter(|_| !heard) {
                if self.socket.is_some() {
                    log::write(Level::Error, &failure.message);
                } else {
                    self.refused = Some(failure);
                }
            }
        }
    }

    /// Takes the next client, or has the one there is give way to it.
    fn somebody_waits(&mut self, now: Instant) {
        self.metrics.somebody_waits(now);
        if let Some(session) = &mut self.session {
            session.give_way(&self.options, now);
        } else if let Some(socket) = &self.socket {
            self.accept_again = None;
            match socket.listener.accept() {
                Ok((stream, _)) => self.welcome(stream, now),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::Interrupted
                    | io::ErrorKind::ConnectionAborted => (),
                    // The host is short of something; it may pass.
                    _ => {
                        log::write(Level::Error, &format!("accept: {error}"));
                        self.accept_again = Some(now + ACCEPT_PAUSE);
                    }
                },
            }
        }
    }

    fn welcome(&mut self, stream: UnixStream, now: Instant) {
        let options = &self.options;
        self.metrics.queue_moved(now);
        // It fails for one that is gone again.
        let Ok(client) = Client::new(stream, options.max_request, now) else {
            return;
        };
        if self.access.admits(client.peer(), || client.groups()) {
            let session = Session::new(client, &self.access, self.next_token, now);
            self.session = Some(session);
            self.metrics.served += 1;
            self.metrics.connected = true;
        } else {
            self.metrics.refused += 1;
            self.refused_clients.add(client, now);
        }
    }

    fn serve(&mut self, woken: &Woken, now: Instant) {
        let Some(session) = &mut self.session else {
            return;
        };
        if woken.gone {
            session.hung_up(&mut self.slot, &self.options, &mut self.metrics, now);
        } else if woken.readable {
            session.read();
        }
        session.advance(&mut self.slot, &self.options, &mut self.metrics, now);
        if session.quit() && self.stop_at.is_none() {
            self.stop_at = Some(now + self.options.idle_timeout);
        }
        if session.over() {
            session.abandon(&mut self.slot, &self.options, &mut self.metrics, now);
            self.metrics.connected = false;
            self.metrics.in_flight = 0;
            self.next_token = session.next_token();
            self.session = None;
            self.unused_since = now;
        }
    }
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}
