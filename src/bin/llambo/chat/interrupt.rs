//! Ctrl-C during a conversation: it ends the answer that is under way, and nothing else.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::failure::Failure;
use llama_cpp_bridge::sys::terminal;

/// What happens while an answer is under way.
enum Event<T> {
    /// The connection was made.
    Connected(UnixStream),
    /// Ctrl-C was pressed.
    Interrupt,
    /// The work has come to its end.
    Done(T),
}

/// Where an interrupt is reported while there is something to interrupt.
type Report = Box<dyn Fn() + Send>;

/// Takes the interrupts of the process.
pub struct Interrupts {
    report: Arc<Mutex<Option<Report>>>,
}

impl Interrupts {
    /// From now on an interrupt no longer ends the process. To be called before other threads are
    /// started.
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

    /// Does work that tells its connection as soon as it has one. An interrupt ends the connection,
    /// and the work with it; if there was none yet, the work is left to itself, and there is no
    /// outcome. The second part is true if there was an interrupt.
    pub fn during<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Fn(UnixStream) -> Result<(), Failure>) -> T + Send + 'static,
    ) -> (Option<T>, bool) {
        // Without room: what was sent was taken, or nobody waits any more.
        let (events, received) = mpsc::sync_channel(0);
        self.set(Some(reporter(events.clone())));
        thread::spawn(move || {
            let connected = |stream| {
                let sent = events.send(Event::Connected(stream));
                sent.map_err(|_| Failure::Told(crate::failure::INTERRUPTED))
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
