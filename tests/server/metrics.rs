//! METRICS: what a bridge counts, in the text format of Prometheus.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{fs, io::Write};

use miniserde::{Deserialize, json};

use crate::harness::{
    Bridge, Client, Directory, Tiny, command, completed, ok, process, skip, wait_until,
};

/// Before the name of every metric.
const PREFIX: &str = "llama_cpp_bridge_";

/// Asks a bridge for its metrics.
pub(crate) fn metrics(client: &mut Client) -> String {
    #[derive(Deserialize)]
    struct Reply {
        status: String,
        message: String,
        data: String,
    }
    client.ask("METRICS");
    let line = client.receive();
    let Some(reply) = json::from_str::<Reply>(&line).ok() else {
        client.fail("expected metrics");
    };
    assert_eq!(
        (reply.status.as_str(), reply.message.as_str()),
        ("ok", "Metrics")
    );
    reply.data
}

/// The value of a metric, named as `requests_total{verb="PING",outcome="ok"}`: without the
/// beginning of every name, and the label `socket`, which every line has.
pub(crate) fn value(text: &str, metric: &str) -> f64 {
    find(text, metric).unwrap_or_else(|| panic!("no {metric} in\n{text}"))
}

fn find(text: &str, metric: &str) -> Option<f64> {
    let (name, labels) = metric.split_once('{').unwrap_or((metric, "}"));
    let rest = labels.strip_suffix('}').expect("labels end in }");
    let comma = if rest.is_empty() { "" } else { "," };
    let start = format!("{PREFIX}{name}{{socket=\"");
    let end = format!("\"{comma}{rest}}}");
    let mut lines = text.lines();
    lines.find_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        (name
            .strip_prefix(&start)?
            .strip_suffix(&end)?
            .find('"')
            .is_none())
        .then(|| value.parse().expect("a value is a number"))
    })
}

/// Expects each metric to have the value beside it.
fn expect(text: &str, metrics: &[(&str, f64)]) {
    for (metric, expected) in metrics {
        assert_eq!(value(text, metric), *expected, "{metric} in\n{text}");
    }
}

/// Has Prometheus' own program look at the text.
fn check(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool can be run");
    let mut input = promtool.stdin.take().expect("stdin is a pipe");
    input.write_all(text.as_bytes()).expect("promtool reads");
    drop(input);
    let ended = promtool.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
    assert!(ended.status.success() && said.is_empty(), "{said}\n{text}");
}

/// Whether Prometheus' own program is here.
pub(crate) fn promtool_or_skip() -> bool {
    let there = Command::new("promtool").arg("--version").output().is_ok();
    if !there {
        skip("there is no promtool (Debian: prometheus) to check metrics with");
    }
    there
}

/// A bridge with a model that knows the alphabet.
fn alphabet(home: &Directory) -> Bridge {
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    Bridge::with_model(home, &model, &[])
}

fn rest(bridge: &Bridge) {
    process::signal(bridge.model_process(), "KILL");
    wait_until("the dead process is reaped", || {
        process::children(bridge.pid()).is_empty() && process::zombies(bridge.pid()).is_empty()
    });
}

#[test]
fn requests_are_counted_by_verb_and_errors_by_code() {
    let home = Directory::new();
    let bridge = alphabet(&home);
    let mut client = bridge.connect();
    client.exchange("PING", &ok("pong"));
    client.exchange("ping", &ok("pong"));
    client.exchange("INFER w", &completed("xyz"));
    for (request, code) in [
        ("INFER", "bad_request"),
        ("HELLO", "unknown_command"),
        ("THERE", "unknown_command"),
        ("LOAD /nonexistent", "load_failed"),
    ] {
        client.ask(request);
        client.expect_error(code);
    }
    let before = metrics(&mut client);
    expect(
        &before,
        &[
            (r#"requests_total{verb="PING",outcome="ok"}"#, 2.0),
            (r#"requests_total{verb="INFER",outcome="ok"}"#, 1.0),
            (r#"requests_total{verb="INFER",outcome="error"}"#, 1.0),
            (r#"requests_total{verb="unknown",outcome="error"}"#, 2.0),
            (r#"requests_total{verb="STREAM",outcome="ok"}"#, 0.0),
            (r#"requests_total{verb="METRICS",outcome="ok"}"#, 0.0),
            (
                r#"request_errors_total{verb="INFER",code="bad_request"}"#,
                1.0,
            ),
            (
                r#"request_errors_total{verb="unknown",code="unknown_command"}"#,
                2.0,
            ),
            (
                r#"request_errors_total{verb="LOAD",code="load_failed"}"#,
                1.0,
            ),
            (r#"model_loads_total{outcome="ok"}"#, 1.0),
            (r#"model_loads_total{outcome="error"}"#, 1.0),
        ],
    );
    let after = metrics(&mut client);
    expect(
        &after,
        &[(r#"requests_total{verb="METRICS",outcome="ok"}"#, 1.0)],
    );
}

#[test]
fn tokens_and_times_are_counted() {
    let home = Directory::new();
    let bridge = alphabet(&home);
    let mut client = bridge.connect();
    let first = client.generate(r#"{"prompt":"stu"}"#);
    client.ask("INFER stuv");
    client.expect(&completed("wxyz"));
    let second = client.generate(r#"{"prompt":"stuvw"}"#);
    client.ask("EMBED abc");
    client.receive();
    let text = metrics(&mut client);
    // INFER does not tell, but its prompt has a token more than that of the first.
    let prompts = first.prompt_tokens + (first.prompt_tokens + 1) + second.prompt_tokens;
    expect(
        &text,
        &[
            ("prompt_tokens_total", prompts as f64),
            ("generated_tokens_total", 5.0 + 4.0 + 3.0),
            ("time_to_first_token_seconds_count", 3.0),
            (r#"time_to_first_token_seconds_bucket{le="+Inf"}"#, 3.0),
            (r#"request_duration_seconds_count{verb="GENERATE"}"#, 2.0),
            (r#"request_duration_seconds_count{verb="INFER"}"#, 1.0),
            (r#"request_duration_seconds_count{verb="EMBED"}"#, 1.0),
        ],
    );
    assert!(value(&text, "embedded_tokens_total") >= 3.0, "{text}");
    let cached = value(&text, "cached_tokens_total");
    assert!(
        cached >= second.cached_tokens as f64 && second.cached_tokens > 0,
        "{text}"
    );
    let sum = |verb: &str| {
        value(
            &text,
            &format!("request_duration_seconds_sum{{verb=\"{verb}\"}}"),
        )
    };
    let durations = sum("GENERATE") + sum("INFER");
    let first_tokens = value(&text, "time_to_first_token_seconds_sum");
    let generation = value(&text, "generation_seconds_total");
    let prompt = value(&text, "prompt_seconds_total");
    assert!(prompt > 0.0 && prompt <= first_tokens, "{text}");
    // To the microsecond of each of the three.
    assert!(
        (first_tokens + generation - durations).abs() < 4e-6,
        "{text}"
    );
}

#[test]
fn a_request_that_nobody_waits_for_any_more_is_abandoned() {
    let home = Directory::new();
    let model = Tiny::endless().write(home.join("endless.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["-n", "-1", "-c", "0"]);
    let mut client = bridge.connect();
    client.ask("STREAM a");
    client.piece();
    client.vanish();
    let text = metrics(&mut bridge.connect());
    expect(
        &text,
        &[
            (r#"requests_total{verb="STREAM",outcome="abandoned"}"#, 1.0),
            (r#"requests_total{verb="STREAM",outcome="error"}"#, 0.0),
            ("requests_in_flight", 0.0),
            (r#"clients_total{outcome="served"}"#, 2.0),
            ("client_connected", 1.0),
        ],
    );
}

#[test]
fn what_is_sent_behind_metrics_is_in_flight() {
    let home = Directory::new();
    let bridge = alphabet(&home);
    let mut client = bridge.connect();
    client.send("METRICS\nINFER w\nPING\nINFER w\n");
    let line = client.receive();
    let label = r#"requests_in_flight{socket=\""#;
    let (_, rest) = line.split_once(label).expect("it is told");
    let (_, rest) = rest.split_once("} ").expect("it has a value");
    assert!(rest.starts_with("2\\n"), "{line}");
    client.expect(&completed("xyz"));
    client.expect(&ok("pong"));
    client.expect(&completed("xyz"));
    expect(&metrics(&mut client), &[("requests_in_flight", 0.0)]);
}

#[test]
fn the_state_of_the_slot_is_told_and_a_resting_model_stays_at_rest() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut client = bridge.connect();
    let expect_state = |client: &mut Client, state: &str| {
        let text = metrics(client);
        for each in ["empty", "loading", "loaded", "resting"] {
            let metric = format!("slot_state{{state=\"{each}\"}}");
            assert_eq!(value(&text, &metric), f64::from(each == state), "{text}");
        }
        text
    };
    expect_state(&mut client, "empty");
    client.load(&Tiny::alphabet().write(home.join("tiny.gguf")));
    let text = expect_state(&mut client, "loaded");
    assert!(value(&text, r#"threads{process="model"}"#) >= 1.0, "{text}");
    rest(&bridge);
    let text = expect_state(&mut client, "resting");
    expect(
        &text,
        &[
            ("model_deaths_total", 1.0),
            ("model_rests_total", 1.0),
            (r#"threads{process="model"}"#, 0.0),
            (r#"resident_memory_bytes{process="model"}"#, 0.0),
        ],
    );
    assert_eq!(process::children(bridge.pid()), [0; 0]);
    client.exchange("INFER w", &completed("xyz"));
    let text = expect_state(&mut client, "loaded");
    expect(&text, &[(r#"model_loads_total{outcome="ok"}"#, 2.0)]);
    let memory = value(&text, r#"resident_memory_bytes{process="model"}"#);
    let seen = process::memory(bridge.model_process()) as f64;
    assert!(
        memory > 0.5 * seen && memory < 2.0 * seen,
        "{memory} {seen}"
    );
    client.exchange("FREE", &ok("Resources freed"));
    expect_state(&mut client, "empty");
}

#[test]
fn a_model_that_rests_because_nobody_needs_it_is_counted() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, &["--idle-unload", "1"]);
    wait_until("the model is unloaded", || {
        bridge.errors().contains("unloaded")
    });
    let text = metrics(&mut bridge.connect());
    expect(
        &text,
        &[
            (r#"slot_state{state="resting"}"#, 1.0),
            ("model_rests_total", 1.0),
            ("model_deaths_total", 0.0),
        ],
    );
}

#[test]
fn the_time_in_which_somebody_waits_is_counted() {
    let home = Directory::new();
    let bridge = Bridge::start(&home, &[]);
    let mut first = bridge.connect();
    let waited = |client: &mut Client| value(&metrics(client), "queue_waiting_seconds_total");
    assert!(waited(&mut first) < waited(&mut first) + 1.0);
    let before = waited(&mut first);
    assert_eq!(waited(&mut first), before, "nobody waits");
    let mut second = bridge.connect();
    wait_until("the time that the second waits grows", || {
        waited(&mut first) > before
    });
    first.vanish();
    let after = waited(&mut second);
    assert!(after > before);
    assert_eq!(waited(&mut second), after, "nobody waits any more");
}

#[test]
fn promtool_finds_nothing_wrong() {
    if !promtool_or_skip() {
        return;
    }
    let home = Directory::new();
    // A name that has to be escaped in a label.
    let socket = home.join("a\"b\\c.sock");
    let mut with_socket = command(&home, &["--temp", "0"]);
    with_socket.arg("--socket").arg(&socket);
    let bridge = Bridge::start_command(&mut with_socket, socket);
    let mut client = bridge.connect();
    check(&metrics(&mut client));
    client.load(&Tiny::alphabet().write(home.join("tiny \"1\".gguf")));
    client.exchange("INFER w", &completed("xyz"));
    client.ask("HELLO");
    client.expect_error("unknown_command");
    let text = metrics(&mut client);
    check(&text);
    assert!(text.contains(r#"a\"b\\c.sock",verb="INFER""#), "{text}");
    assert!(text.contains(r#"tiny \"1\".gguf",description="#), "{text}");
}

/// The names of all metrics.
pub(crate) fn names(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .filter_map(|line| line.split(' ').next())
        .map(String::from)
        .collect()
}

#[test]
fn every_metric_stands_in_the_manual_with_its_kind_and_the_reverse() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/llama-cpp-bridge-metrics.7");
    let page = fs::read_to_string(page).expect("the page can be read");
    let (_, section) = page.split_once("\n.Sh METRICS\n").expect("it is there");
    let section = section.split("\n.Sh ").next().unwrap_or(section);
    let documented: BTreeSet<String> = section
        .split("\n.It Cm ")
        .skip(1)
        .map(|item| {
            let mut lines = item.lines();
            let name = lines.next().unwrap_or_default();
            let name = name.split([' ', '{']).next().unwrap_or_default();
            let kind = lines.next().unwrap_or_default();
            format!(
                "{PREFIX}{name} {}",
                kind.trim_end_matches('.').to_lowercase()
            )
        })
        .collect();
    let home = Directory::new();
    let text = metrics(&mut Bridge::start(&home, &[]).connect());
    let told = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    assert_eq!(documented, told.map(String::from).collect());
    assert_eq!(names(&text).len(), documented.len());
}
