//! Ctrl-C during a conversation: it stops the current answer, and nothing else.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::failure::Failure;
use llama_cpp_bridge::sys::terminal;

/// What happens while an answer is awaited.
enum Event<T> {
    /// The connection was made.
    Connected(UnixStream),
    /// Ctrl-C was pressed.
    Interrupt,
    /// The work has ended.
    Done(T),
}

/// Called on an interrupt while there is something to interrupt.
type Report = Box<dyn Fn() + Send>;

/// Handles SIGINT for the process.
pub struct Interrupts {
    report: Arc<Mutex<Option<Report>>>,
}

impl Interrupts {
    /// From now on SIGINT no longer ends the process. To be called before other threads are started.
    pub fn take() -> Self {
        terminal::hold_interrupts(true);
        let report: Arc<Mutex<Option<Report>>> = Arc::default();
        let shared = Arc::clone(&report);
        thread::spawn(move || {
            loop {
                terminal::wait_for_interrupt();
                if let Some(report) = &*shared.lock().unwrap_or_else(PoisonError::into_inner) {
                    report();
                }
            }
        });
        Interrupts { report }
    }

    /// Runs work that passes on its connection as soon as it has one. An interrupt shuts the
    /// connection down, which ends the work; without one yet, the work is abandoned and has no
    /// outcome. The second value is whether there was an interrupt.
    pub fn during<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Fn(UnixStream) -> Result<(), Failure>) -> T + Send + 'static,
    ) -> (Option<T>, bool) {
        // Unbuffered: what was sent was received, or nobody is waiting any more.
        let (events, received) = mpsc::sync_channel(0);
        self.set(Some(reporter(events.clone())));
        thread::spawn(move || {
            let connected = |stream| {
                let sent = events.send(Event::Connected(stream));
                sent.map_err(|_| Failure::Reported(crate::failure::INTERRUPTED))
            };
            let outcome = work(&connected);
            events.send(Event::Done(outcome))
        });
        let mut stream = None;
        let mut interrupted = false;
        let outcome = loop {
            match received.recv() {
                Ok(Event::Connected(connection)) => stream = Some(connection),
                Ok(Event::Done(outcome)) => break Some(outcome),
                Ok(Event::Interrupt) => {
                    interrupted = true;
                    match &stream {
                        Some(stream) => drop(stream.shutdown(Shutdown::Both)),
                        None => break None,
                    }
                }
                Err(_) => break None,
            }
        };
        drop(received);
        self.set(None);
        (outcome, interrupted)
    }

    fn set(&self, report: Option<Report>) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
}

fn reporter<T: Send + 'static>(events: SyncSender<Event<T>>) -> Report {
    Box::new(move || drop(events.send(Event::Interrupt)))
}
