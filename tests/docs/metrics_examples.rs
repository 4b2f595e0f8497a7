//! The alert rules and the dashboard of `man/examples/`: that they are Prometheus' and Grafana's, and
//! speak of metrics that exist.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use miniserde::json::{self, Value};

use crate::harness::{Bridge, Directory, run};
use crate::server::metrics::{metrics, names, promtool_or_skip};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("man/examples")
        .join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).expect("the example is there")
}

fn rules() -> PathBuf {
    path("llama-cpp-bridge.rules.yml")
}

/// The names of metrics in a text.
fn mentioned(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("llama_cpp_bridge_"))
        .map(String::from)
        .collect()
}

/// Expects that every metric that is mentioned exists.
fn expect_known(mentioned: &BTreeSet<String>) {
    let home = Directory::new();
    let text = metrics(&mut Bridge::start(&home, &[]).connect());
    let known = names(&text);
    for name in mentioned {
        // The lines of a histogram are called by more than its name.
        let stem = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        let histogram = |stem: &str| text.contains(&format!("# TYPE {stem} histogram\n"));
        let right = known.contains(name) || stem.is_some_and(histogram);
        assert!(right, "there is no {name}");
    }
}

/// All queries of a dashboard.
fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        Value::Object(members) => {
            for (key, value) in members {
                match value {
                    Value::String(text) if key == "expr" => found.push(text.clone()),
                    other => queries(other, found),
                }
            }
        }
        _ => {}
    }
}

fn dashboard() -> (String, Vec<String>) {
    let text = read("llama-cpp-bridge.grafana.json");
    let value: Value = json::from_str(&text).expect("it is JSON");
    let mut found = Vec::new();
    queries(&value, &mut found);
    assert!(found.len() >= 20, "the queries were not found: {found:?}");
    (text, found)
}

#[test]
fn the_rules_and_the_dashboard_name_only_metrics_that_exist() {
    let rules = mentioned(&read("llama-cpp-bridge.rules.yml"));
    assert!(rules.len() >= 6, "{rules:?}");
    expect_known(&rules);
    expect_known(&mentioned(&dashboard().0));
}

#[test]
fn promtool_takes_the_rules() {
    if !promtool_or_skip() {
        return;
    }
    let ended = run(Command::new("promtool")
        .args(["check", "rules", "--lint-fatal"])
        .arg(rules()));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.output.contains("6 rules found"), "{ended:?}");
}

#[test]
fn promtool_takes_the_queries_of_the_dashboard() {
    if !promtool_or_skip() {
        return;
    }
    let mut rules = String::from("groups:\n- name: queries\n  rules:\n");
    for (at, query) in dashboard().1.iter().enumerate() {
        let query = query.replace("$__rate_interval", "5m").replace('\'', "''");
        let _ = writeln!(rules, "  - record: query:{at}\n    expr: '{query}'");
    }
    let home = Directory::new();
    let file = home.join("rules.yml");
    fs::write(&file, rules).expect("it can be written");
    let ended = run(Command::new("promtool").args(["check", "rules"]).arg(file));
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// What the alerts are tried with: a minute of a series is a number; `_` is none.
const SERIES: &str = r#"
  interval: 1m
  input_series:
    # One that stops at once, and one that goes on.
    - series: 'llama_cpp_bridge_update_time_seconds{instance="h",socket="/gone"}'
      values: '0x60'
    - series: 'llama_cpp_bridge_update_time_seconds{instance="h",socket="/there"}'
      values: '0+60x60'
    - series: 'llama_cpp_bridge_model_deaths_total{instance="h",socket="/there"}'
      values: '0+1x60'
    - series: 'llama_cpp_bridge_model_loads_total{instance="h",socket="/there",outcome="error"}'
      values: '0+1x60'
    - series: 'llama_cpp_bridge_model_loads_total{instance="h",socket="/gone",outcome="error"}'
      values: '0+1x60'
    - series: 'llama_cpp_bridge_slot_state{instance="h",socket="/there",state="empty"}'
      values: '1x60'
    - series: 'llama_cpp_bridge_slot_state{instance="h",socket="/gone",state="empty"}'
      values: '0x60'
    - series: 'llama_cpp_bridge_requests_total{instance="h",socket="/there",verb="INFER",outcome="ok"}'
      values: '0+60x60'
    - series: 'llama_cpp_bridge_requests_total{instance="h",socket="/there",verb="INFER",outcome="error"}'
      values: '0+20x60'
    - series: 'llama_cpp_bridge_time_to_first_token_seconds_bucket{instance="h",socket="/there",le="10"}'
      values: '0+50x60'
    - series: 'llama_cpp_bridge_time_to_first_token_seconds_bucket{instance="h",socket="/there",le="25"}'
      values: '0+60x60'
    - series: 'llama_cpp_bridge_time_to_first_token_seconds_bucket{instance="h",socket="/there",le="+Inf"}'
      values: '0+60x60'
    - series: 'llama_cpp_bridge_queue_waiting_seconds_total{instance="h",socket="/there"}'
      values: '0+60x60'
"#;

/// The alerts that are then raised, and by which bridge.
const RAISED: [(&str, &str); 6] = [
    ("LlamaCppBridgeGone", "/gone"),
    ("LlamaCppBridgeModelDies", "/there"),
    ("LlamaCppBridgeCannotLoad", "/there"),
    ("LlamaCppBridgeErrors", "/there"),
    ("LlamaCppBridgeSlow", "/there"),
    ("LlamaCppBridgeCrowded", "/there"),
];

#[test]
fn each_alert_is_raised_for_the_bridge_that_gives_cause_and_for_no_other() {
    if !promtool_or_skip() {
        return;
    }
    // promtool tells the alerts that it found in place of those that were expected.
    let mut test = format!(
        "rule_files: ['{}']\ntests:\n-{}  alert_rule_test:\n",
        rules().display(),
        &SERIES[2..]
    );
    for (alert, _) in RAISED {
        let _ = writeln!(test, "    - {{eval_time: 55m, alertname: {alert}}}");
    }
    let home = Directory::new();
    let file = home.join("test.yml");
    fs::write(&file, test).expect("it can be written");
    let ended = run(Command::new("promtool").args(["test", "rules"]).arg(file));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let said = ended.output + &ended.errors;
    let groups: Vec<&str> = said.split("alertname: ").skip(1).collect();
    assert_eq!(groups.len(), RAISED.len(), "{said}");
    for (alert, socket) in RAISED {
        let group = groups.iter().find(|group| group.starts_with(alert));
        let group = group.unwrap_or_else(|| panic!("no {alert} in\n{said}"));
        let raised: Vec<&str> = group.split("socket=\"").skip(1).collect();
        assert_eq!(raised.len(), 1, "{alert}: {said}");
        assert!(raised[0].starts_with(socket), "{alert}: {said}");
    }
}
