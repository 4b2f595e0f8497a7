//! The counters as Prometheus reads them: its text exposition format, version 0.0.4.

use std::fmt::{Display, Write};
use std::time::{Duration, SystemTime};

use super::histogram::Histogram;
use super::processes::{self, Process};
use super::{Metrics, Verb};
use crate::slot::{STATES, Slot};
use llama_cpp_bridge::shared::failure::Code;

/// Stands before the name of every metric.
const PREFIX: &str = "llama_cpp_bridge_";

/// All metrics of a bridge.
pub fn of(metrics: &Metrics, slot: &Slot) -> String {
    let mut page = Page::new(&metrics.socket);
    about(&mut page, metrics);
    model(&mut page, slot);
    clients(&mut page, metrics);
    requests(&mut page, metrics);
    tokens(&mut page, metrics);
    times(&mut page, metrics);
    system(&mut page, slot);
    page.text
}

fn about(page: &mut Page, metrics: &Metrics) {
    page.gauge("build_info", "The program; always 1.");
    page.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.gauge("start_time_seconds", "When the bridge was started.");
    page.sample(&[], seconds_since_1970(metrics.started));
    page.gauge("update_time_seconds", "When these numbers were looked up.");
    page.sample(&[], seconds_since_1970(SystemTime::now()));
}

fn model(page: &mut Page, slot: &Slot) {
    page.gauge(
        "slot_state",
        "1 for the state in which the model slot is, 0 for the others.",
    );
    for state in STATES {
        page.sample(&[("state", state)], u8::from(state == slot.state()));
    }
    page.gauge("model_info", "The model, loaded or resting; always 1.");
    if let Some(model) = slot.model() {
        let labels = [
            ("model", model.path()),
            ("description", &model.ready.description),
            ("architecture", &model.ready.architecture),
        ];
        page.sample(&labels, 1);
    }
    let counters = slot.counters();
    page.counter(
        "model_loads_total",
        "Loads that ended, those of a resting model included.",
    );
    page.sample(&[("outcome", "ok")], counters.loads);
    page.sample(&[("outcome", "error")], counters.failed_loads);
    page.counter(
        "model_load_seconds_total",
        "Time of the loads that went well.",
    );
    page.sample(&[], counters.load_time.as_secs_f64());
    page.counter(
        "model_deaths_total",
        "Ends of the process of a loaded model that nobody had asked for.",
    );
    page.sample(&[], counters.deaths);
    page.counter(
        "model_rests_total",
        "Times that the model was left without a process, to come back when it is needed.",
    );
    page.sample(&[], counters.unloads);
}

fn clients(page: &mut Page, metrics: &Metrics) {
    page.counter("clients_total", "Clients that were taken from the queue.");
    page.sample(&[("outcome", "served")], metrics.served);
    page.sample(&[("outcome", "refused")], metrics.refused);
    page.gauge("client_connected", "1 while a client is served, else 0.");
    page.sample(&[], u8::from(metrics.connected));
    page.counter(
        "queue_waiting_seconds_total",
        "Time in which at least one client waited in the queue of the socket.",
    );
    let now = metrics.queue.since.map(|since| since.elapsed());
    let waited = metrics.queue.waited + now.unwrap_or_default();
    page.sample(&[], waited.as_secs_f64());
}

fn requests(page: &mut Page, metrics: &Metrics) {
    page.counter("requests_total", "Requests that ended.");
    for verb in &metrics.verbs {
        let outcomes = [
            ("ok", verb.ok),
            ("error", verb.errors.iter().sum()),
            ("abandoned", verb.abandoned),
        ];
        for (outcome, count) in outcomes {
            page.sample(&[("verb", verb.name), ("outcome", outcome)], count);
        }
    }
    page.counter("request_errors_total", "Error replies, by their code.");
    for verb in &metrics.verbs {
        for (code, count) in Code::ALL.iter().zip(verb.errors) {
            if count > 0 {
                page.sample(&[("verb", verb.name), ("code", &code.name())], count);
            }
        }
    }
    page.gauge(
        "requests_in_flight",
        "Requests that are with the model, or wait for it.",
    );
    page.sample(&[], metrics.in_flight);
}

fn tokens(page: &mut Page, metrics: &Metrics) {
    let tokens = &metrics.tokens;
    page.counter("prompt_tokens_total", "Tokens of prompts.");
    page.sample(&[], tokens.prompt);
    page.counter(
        "cached_tokens_total",
        "Tokens of prompts that were not evaluated again.",
    );
    page.sample(&[], tokens.cached);
    page.counter("generated_tokens_total", "Tokens of answers.");
    page.sample(&[], tokens.generated);
    page.counter(
        "embedded_tokens_total",
        "Tokens of texts that were embedded.",
    );
    page.sample(&[], tokens.embedded);
}

fn times(page: &mut Page, metrics: &Metrics) {
    page.counter(
        "prompt_seconds_total",
        "Time that requests spent on their prompts.",
    );
    page.sample(&[], metrics.prompt_time.as_secs_f64());
    page.counter(
        "generation_seconds_total",
        "Time that requests spent on their answers.",
    );
    page.sample(&[], metrics.completion_time.as_secs_f64());
    page.histogram(
        "time_to_first_token_seconds",
        "From when a request was taken up until its first token was there.",
    );
    page.times(&[], &metrics.first_token);
    page.histogram(
        "request_duration_seconds",
        "From when a request was taken up until its answer was there.",
    );
    let used = |verb: &&Verb| verb.durations.count() > 0;
    for verb in metrics.verbs.iter().filter(used) {
        page.times(&[("verb", verb.name)], &verb.durations);
    }
}

fn system(page: &mut Page, slot: &Slot) {
    let model = slot.process().and_then(processes::look);
    let processes = [
        ("bridge", processes::look(std::process::id())),
        ("model", model),
    ];
    // A process that is gone uses nothing; where the system reports nothing, neither does this.
    let there = processes[0].1.is_some();
    let processes = processes.map(|(name, process)| (name, process.unwrap_or_default()));
    page.gauge("resident_memory_bytes", "Memory, shared pages included.");
    for (name, Process { resident, .. }) in processes.iter().filter(|_| there) {
        page.sample(&[("process", name)], resident);
    }
    page.gauge("threads", "Threads of the process.");
    for (name, Process { threads, .. }) in processes.iter().filter(|_| there) {
        page.sample(&[("process", name)], threads);
    }
}

fn seconds_since_1970(time: SystemTime) -> f64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let since: Duration = since.unwrap_or_default();
    since.as_millis() as f64 / 1000.0
}

/// The text so far.
struct Page {
    text: String,
    /// The label that distinguishes the bridges of a host, which every line has: of two files with
    /// a line of the same name and labels, node_exporter takes neither.
    socket: String,
    /// The metric that the next lines are of.
    name: &'static str,
}

impl Page {
    fn new(socket: &str) -> Self {
        Self {
            text: String::new(),
            socket: format!("socket=\"{}\"", escaped(socket)),
            name: "",
        }
    }

    fn begin(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        let _ = writeln!(self.text, "# HELP {PREFIX}{name} {help}");
        let _ = writeln!(self.text, "# TYPE {PREFIX}{name} {kind}");
    }

    fn counter(&mut self, name: &'static str, help: &str) {
        self.begin(name, "counter", help);
    }

    fn gauge(&mut self, name: &'static str, help: &str) {
        self.begin(name, "gauge", help);
    }

    fn histogram(&mut self, name: &'static str, help: &str) {
        self.begin(name, "histogram", help);
    }

    /// A line of the metric that was begun last.
    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, value);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let Self { text, socket, name } = self;
        let _ = write!(text, "{PREFIX}{name}{suffix}{{{socket}");
        for (label, value) in labels {
            let _ = write!(text, ",{label}=\"{}\"", escaped(value));
        }
        let _ = writeln!(text, "}} {value}");
    }

    /// The lines of a histogram.
    fn times(&mut self, labels: &[(&str, &str)], times: &Histogram) {
        for (bound, count) in times.buckets() {
            let bound = bound.to_string();
            self.line("_bucket", &[labels, &[("le", &bound)]].concat(), count);
        }
        let all = [labels, &[("le", "+Inf")]].concat();
        self.line("_bucket", &all, times.count());
        self.line("_sum", labels, times.sum().as_secs_f64());
        self.line("_count", labels, times.count());
    }
}

/// The value of a label, escaped for its quotes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
