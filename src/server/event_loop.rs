//! The server: one loop, which waits in one place for whatever happens next, and hands it to the
//! state that it belongs to. There is one client at a time; the next ones wait in the queue of
//! the socket. What is due at a time is done by the `tick` of each state, which returns when it is
//! to be called again.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::cli::Options;
use crate::server::client::Client;
use crate::server::command;
use crate::server::listener::{Place, Socket};
use crate::server::metrics::Metrics;
use crate::server::metrics::file::MetricsFile;
use crate::server::rejected::RejectedClients;
use crate::server::session::Session;
use crate::server::settings::{Context, Settings};
use crate::slot::{self, Event, LoadStatus, Origin};
use llama_cpp_bridge::shared::failure::Failure;
use llama_cpp_bridge::sys::log::{self, Level};
use llama_cpp_bridge::sys::poll::{PollFd, poll};
use llama_cpp_bridge::sys::signals::Signals;
use llama_cpp_bridge::sys::systemd::activation;
use llama_cpp_bridge::sys::systemd::notify::Notifier;

/// How long to wait before accepting again after it failed.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// How long the model processes may take to end before the bridge leaves without them.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// Everything that the loop looks after.
struct Bridge {
    context: Context,
    signals: Signals,
    /// `None` until the model of the command line is loaded.
    socket: Option<Socket>,
    session: Option<Session>,
    /// When the last client left, or the bridge began to serve.
    unused_since: Instant,
    notifier: Notifier,
    metrics_file: Option<MetricsFile>,
    rejected: RejectedClients,
    /// Somebody was in the queue of the socket when it was last looked at.
    knocked: bool,
    /// Until when no client is accepted, because that failed.
    accept_again: Option<Instant>,
    /// Before that no token of a client is looked at, because one was wrong.
    next_token: Instant,
    /// Why the model of the command line could not be loaded.
    load_failure: Option<Failure>,
    /// When the bridge stops, whether its last reply was taken or not.
    stop_at: Option<Instant>,
}

/// Serves until it is told to stop.
///
/// # Errors
/// What kept it from serving.
pub fn run(options: &Options) -> Result<(), String> {
    if options.preload {
        let message =
            "--preload is ignored since 0.2.0; read the file before the start, with cat(1)";
        log::write(Level::Warning, message);
    }
    let passed = activation::take()?;
    slot::clean_up();
    let signals = Signals::catch().map_err(|error| format!("signals: {error}"))?;
    let settings = Settings::resolve(options)?;
    let slot = settings.open_slot(options)?;
    if let Some(notice) = settings.sandbox.notice() {
        log::write(Level::Warning, &notice);
    }
    let place = Place::find(passed, options)?;
    let now = Instant::now();
    let context = Context {
        slot,
        settings,
        metrics: Metrics::new(place.name(), command::counted()),
        now,
    };
    let metrics_file = options.metrics_file.as_deref();
    let metrics_file =
        metrics_file.map(|path| MetricsFile::new(path, &context.metrics_text(), now));
    let mut bridge = Bridge {
        context,
        signals,
        socket: None,
        session: None,
        unused_since: now,
        notifier: Notifier::from_environment(now),
        metrics_file: metrics_file.transpose()?,
        rejected: RejectedClients::default(),
        knocked: false,
        accept_again: None,
        next_token: now,
        load_failure: None,
        stop_at: None,
    };
    let served = bridge.serve(place, options);
    bridge.end_model_processes();
    served
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
    /// Whether it was seen if somebody is in the queue of the socket.
    listened: bool,
    /// Somebody is in it.
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
    fn serve(&mut self, place: Place, options: &Options) -> Result<(), String> {
        if let Some(path) = &options.model {
            self.load_first(path)?;
        }
        if self.stop_at.is_some() {
            return Ok(());
        }
        let socket = place.listen(options)?;
        socket.expect_room_for_a_client()?;
        announce(&socket.name)?;
        self.socket = Some(socket);
        self.unused_since = Instant::now();
        self.notifier.ready();
        while !self.stopped() {
            self.turn()?;
        }
        Ok(())
    }

    /// Ends the model processes, and waits a moment for them to be gone, as they are unless the
    /// kernel cannot end them.
    fn end_model_processes(&mut self) {
        let slot = &mut self.context.slot;
        let mut now = Instant::now();
        let until = now + LAST_WAIT;
        slot.free(now);
        while !slot.is_free() && now < until {
            let mut fds = [PollFd::readable(self.signals.fd())];
            if poll(&mut fds, Some(until - now)).is_err() {
                break;
            }
            self.signals.drain();
            now = Instant::now();
            slot.receive(now, false, true);
        }
        if !slot.is_free() {
            let message = format!("exiting although {}", slot.describe_ending());
            log::write(Level::Error, &message);
        }
    }

    /// Loads the model of the command line.
    fn load_first(&mut self, path: &str) -> Result<(), String> {
        let slot = &mut self.context.slot;
        let status = slot.load(path, Origin::Owner, self.context.now);
        let mut loading = status.map_err(|failure| failure.message)? != LoadStatus::Loaded;
        while loading && self.stop_at.is_none() {
            self.turn()?;
            loading = self.context.slot.is_loading();
        }
        match self.load_failure.take() {
            Some(failure) => Err(failure.message),
            None => Ok(()),
        }
    }

    fn stopped(&self) -> bool {
        let farewell = self.session.as_ref().is_some_and(|s| !s.over());
        self.stop_at
            .is_some_and(|at| !farewell || at <= Instant::now())
    }

    /// Does what is due, then waits once and takes in what has happened.
    fn turn(&mut self) -> Result<(), String> {
        let deadline = self.tick();
        if self.stopped() {
            return Ok(());
        }
        let woken = self.wait(deadline);
        let woken = woken.map_err(|error| format!("poll: {error}"))?;
        self.context.now = Instant::now();
        if woken.signal {
            self.signals.drain();
        }
        // Also where poll(2) fails for want of memory.
        if self.signals.stop_requested() {
            if let Some(session) = &mut self.session {
                session.say_goodbye(self.context.now);
            }
            self.stop_at = Some(self.context.now);
            self.notifier.stopping();
            self.notifier.tick(self.context.now);
            return Ok(());
        }
        self.receive_events(&woken);
        if woken.listened {
            self.knocked = woken.knocking;
        }
        if woken.knocking {
            self.on_knock();
        }
        if let Some(session) = &mut self.session {
            if woken.gone {
                session.hung_up(&mut self.context);
            } else if woken.readable {
                session.read();
            }
        }
        if let Some(file) = self.metrics_file.as_mut().filter(|_| woken.by_something()) {
            file.touch();
        }
        Ok(())
    }

    /// Does what can be done without waiting; returns when there is something to do again, if
    /// nothing happens before.
    fn tick(&mut self) -> Option<Instant> {
        let session = self.tick_session();
        let now = self.context.now;
        let wanted = self.session.as_ref().is_some_and(Session::wants_model);
        let slot = self.context.slot.tick(now, wanted);
        self.accept_again = self.accept_again.filter(|at| *at > now);
        let leave = self.tick_exit_idle();
        if self.stop_at.is_some() {
            self.notifier.stopping();
        }
        let context = &self.context;
        let file = self.metrics_file.as_mut();
        let deadlines = [
            session,
            slot,
            leave,
            self.stop_at,
            self.accept_again,
            self.rejected.tick(now),
            self.notifier.tick(now),
            file.map(|file| file.tick(|| context.metrics_text(), now)),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn tick_session(&mut self) -> Option<Instant> {
        let context = &mut self.context;
        let session = self.session.as_mut()?;
        let deadline = session.tick(context);
        if session.quit() && self.stop_at.is_none() {
            self.stop_at = Some(context.now + context.settings.idle_timeout);
        }
        if session.over() {
            session.abandon(context);
            context.metrics.connected = false;
            context.metrics.in_flight = 0;
            self.next_token = session.next_token();
            self.session = None;
            self.unused_since = context.now;
        }
        deadline
    }

    /// Stops a bridge that nobody has used for long enough; returns when that will be.
    fn tick_exit_idle(&mut self) -> Option<Instant> {
        let limit = self.context.settings.exit_idle?;
        let used = self.session.is_some() || self.socket.is_none() || self.stop_at.is_some();
        // Somebody is there, and could not be accepted yet.
        if used || self.accept_again.is_some() {
            return None;
        }
        let at = self.unused_since + limit;
        // After one that was rejected there may be another, who is lost if nobody listens.
        if at <= self.context.now && !self.knocked {
            let seconds = limit.as_secs();
            let message = format!("exiting: no client for {seconds} s (--exit-idle)");
            log::write(Level::Info, &message);
            self.stop_at = Some(self.context.now);
        }
        Some(at)
    }

    /// Whether to look if somebody is in the queue of the socket: while a client is served only
    /// when its time is over, and once for those who count how long others wait.
    fn listens(&self) -> bool {
        let Context {
            settings,
            metrics,
            now,
            ..
        } = &self.context;
        let over = |session: &Session| session.yields_at(settings).is_some_and(|at| at <= *now);
        let session = self.session.as_ref();
        self.stop_at.is_none()
            && self.accept_again.is_none()
            && session.is_none_or(|session| over(session) || !metrics.knows_who_waits())
    }

    /// The one place that waits: for a signal, the model process, a client, or the deadline.
    fn wait(&self, deadline: Option<Instant>) -> io::Result<Woken> {
        let mut fds = vec![PollFd::readable(self.signals.fd())];
        fds.extend(self.context.slot.polls());
        let model = 1..fds.len();
        let session = self.session.as_ref();
        let client = session.map(|_| fds.len());
        fds.extend(session.map(|session| session.poll(&self.context.settings)));
        let socket = self.socket.as_ref().filter(|_| self.listens());
        let knocks = socket.map(|_| fds.len());
        fds.extend(socket.map(|socket| PollFd::readable(socket.listener.as_fd())));
        let now = Instant::now();
        poll(
            &mut fds,
            deadline.map(|at| at.saturating_duration_since(now)),
        )?;
        let client = client.map(|at| &fds[at]);
        Ok(Woken {
            signal: fds[0].ready(),
            model: fds[model].iter().any(PollFd::ready),
            listened: knocks.is_some(),
            knocking: knocks.is_some_and(|at| fds[at].ready()),
            readable: client.is_some_and(PollFd::has_input),
            gone: client.is_some_and(PollFd::gone),
        })
    }

    fn receive_events(&mut self, woken: &Woken) {
        let context = &mut self.context;
        let (now, slot) = (context.now, &mut context.slot);
        for event in slot.receive(now, woken.model, woken.signal) {
            let failure = match &event {
                Event::LoadEnded(Err(failure)) => Some(failure.clone()),
                _ => None,
            };
            let session = self.session.as_mut();
            let taken = session.is_some_and(|session| session.on_event(event, context));
            if let Some(failure) = failure.filter(|_| !taken) {
                if self.socket.is_some() {
                    log::write(Level::Error, &failure.message);
                } else {
                    self.load_failure = Some(failure);
                }
            }
        }
    }

    /// Takes the next client, or has the one there is make room for it.
    fn on_knock(&mut self) {
        self.context.metrics.somebody_waits(self.context.now);
        if let Some(session) = &mut self.session {
            session.yield_if_due(&self.context);
        } else if let Some(socket) = &self.socket {
            match socket.listener.accept() {
                Ok((stream, _)) => self.welcome(stream),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::Interrupted
                    | io::ErrorKind::ConnectionAborted => (),
                    // The host is short of something; it may pass.
                    _ => {
                        log::write(Level::Error, &format!("accept: {error}"));
                        self.accept_again = Some(self.context.now + ACCEPT_PAUSE);
                    }
                },
            }
        }
    }

    fn welcome(&mut self, stream: UnixStream) {
        let context = &mut self.context;
        let now = context.now;
        context.metrics.queue_moved(now);
        // It fails for one that is gone again.
        let Ok(client) = Client::new(stream, context.settings.max_request, now) else {
            return;
        };
        let access = &context.settings.access;
        if access.admits(client.peer(), || client.groups()) {
            context.metrics.served += 1;
            context.metrics.connected = true;
            self.session = Some(Session::new(client, self.next_token, context));
        } else {
            context.metrics.refused += 1;
            self.rejected.add(client, now);
        }
    }
}
