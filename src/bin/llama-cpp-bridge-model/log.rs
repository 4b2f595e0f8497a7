//! llama.cpp's log: from the binding's tracing events to marked lines on standard error, which the
//! bridge reads.

use std::fmt::{Debug, Write as _};
use std::io::{self, Write};

use llama_cpp_2::LogOptions;
use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::{Dispatch, Event, Level, Metadata, Subscriber, dispatcher};

use llama_cpp_bridge::sys::log::{ERROR_MARK, OTHER_MARK, WARNING_MARK};

/// Sends llama.cpp's errors, or all that it logs if `verbose`, to standard error.
pub fn capture(verbose: bool) {
    // It fails only if one is set already, and this process sets one once.
    let _ = dispatcher::set_global_default(Dispatch::new(Log { verbose }));
    llama_cpp_2::send_logs_to_tracing(LogOptions::default());
}

struct Log {
    verbose: bool,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && (self.verbose || *metadata.level() == Level::ERROR)
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let line = text.0.trim_end().replace('\n', " ");
        let mark = match *event.metadata().level() {
            Level::ERROR => ERROR_MARK,
            Level::WARN => WARNING_MARK,
            _ => OTHER_MARK,
        };
        let _ = writeln!(io::stderr(), "{mark}{line}");
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The text of an event; its other fields say where in llama.cpp it comes from.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.0.push_str(value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        }
    }
}
