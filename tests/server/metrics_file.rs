//! `--metrics-file`: the metrics where others collect them, while a client is served.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{
    Bridge, Directory, Tiny, command, completed, ok, process, run, skip, wait_until,
};
use crate::server::metrics::{metrics, value};

/// The arguments that have a bridge write its metrics to this file.
fn options(path: &Path) -> [&str; 2] {
    [
        "--metrics-file",
        path.to_str().expect("test paths are UTF-8"),
    ]
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_file_is_there_when_the_bridge_serves_and_goes_with_it() {
    let home = Directory::new();
    let file = home.join("bridge.prom");
    let mut bridge = Bridge::start(&home, &options(&file));
    let text = read(&file);
    assert_eq!(value(&text, "client_connected"), 0.0);
    let mut client = bridge.connect();
    wait_until("the client is in the file", || {
        value(&read(&file), "client_connected") == 1.0
    });
    client.exchange("PING", &ok("pong"));
    wait_until("the request is in the file", || {
        value(&read(&file), r#"requests_total{verb="PING",outcome="ok"}"#) == 1.0
    });
    let names = |text: &str| -> Vec<String> {
        text.lines()
            .filter_map(|line| Some(line.rsplit_once(' ')?.0.to_string()))
            .filter(|name| !name.contains("duration"))
            .collect()
    };
    assert_eq!(names(&read(&file)), names(&metrics(&mut client)));
    client.exchange("QUIT", &ok("Goodbye"));
    bridge.expect_stop(&[]);
    assert!(!file.exists(), "it tells of a bridge that is gone");
    assert!(!home.join("bridge.prom.tmp").exists());
}

#[test]
fn it_goes_when_the_start_fails() {
    let home = Directory::new();
    let file = home.join("bridge.prom");
    let arguments = [&options(&file)[..], &["--model", "/nonexistent"]].concat();
    let ended = run(&mut command(&home, &arguments));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(!file.exists());
}

#[test]
fn it_is_written_once_a_second_at_the_most() {
    let home = Directory::new();
    let file = home.join("bridge.prom");
    let bridge = Bridge::start(&home, &options(&file));
    let mut client = bridge.connect();
    let mut times = vec![value(&read(&file), "update_time_seconds")];
    wait_until("it was written four times", || {
        client.exchange("PING", &ok("pong"));
        let time = value(&read(&file), "update_time_seconds");
        if times.last() != Some(&time) {
            times.push(time);
        }
        times.len() == 4
    });
    for pair in times.windows(2) {
        // The time is taken a moment after the one that counts.
        assert!(pair[1] - pair[0] > 0.9, "{times:?}");
    }
}

#[test]
fn it_is_written_in_the_middle_of_a_long_generation() {
    let home = Directory::new();
    let file = home.join("bridge.prom");
    let model = Tiny::endless().write(home.join("endless.gguf"));
    let more = ["-n", "-1", "-c", "0"];
    let bridge = Bridge::with_model(&home, &model, &[&options(&file)[..], &more].concat());
    let mut client = bridge.connect();
    client.ask("INFER a");
    wait_until("the request is in the file", || {
        value(&read(&file), "requests_in_flight") == 1.0
    });
    let before = value(&read(&file), "update_time_seconds");
    wait_until("the file is written again", || {
        value(&read(&file), "update_time_seconds") > before
    });
    assert_eq!(value(&read(&file), "requests_in_flight"), 1.0);
    client.expect_nothing_yet();
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_at_the_start() {
    let home = Directory::new();
    fs::create_dir(home.join("directory")).expect("it can be made");
    for (path, reason) in [
        (
            "missing/bridge.prom",
            "No such file or directory (os error 2)",
        ),
        ("directory", "is a directory; left alone"),
    ] {
        let path = home.join(path);
        let ended = run(&mut command(&home, &options(&path)));
        let message = format!("--metrics-file: {}: {reason}\n", path.display());
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert_eq!(ended.errors, format!("llama-cpp-bridge: {message}"));
        assert!(!home.socket().exists());
    }
    let ended = run(&mut command(&home, &["--metrics-file", "/dev/null"]));
    assert_eq!(
        ended.errors,
        "llama-cpp-bridge: --metrics-file: /dev/null: is a character device; left alone\n"
    );
    assert!(run(Command::new("test").args(["-c", "/dev/null"])).code == Some(0));
}

#[test]
fn a_later_failure_is_told_once_and_does_not_last() {
    let home = Directory::new();
    let folder = home.join("folder");
    fs::create_dir(&folder).expect("it can be made");
    let file = folder.join("bridge.prom");
    let bridge = Bridge::start(&home, &options(&file));
    fs::remove_dir_all(&folder).expect("it can be removed");
    let mut client = bridge.connect();
    wait_until("the failure is told", || {
        client.exchange("PING", &ok("pong"));
        !bridge.errors().is_empty()
    });
    // Long enough for two more attempts.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2500) {
        client.exchange("PING", &ok("pong"));
    }
    fs::create_dir(&folder).expect("it can be made");
    wait_until("the file is back", || {
        client.exchange("PING", &ok("pong"));
        file.exists()
    });
    drop(client);
    assert_eq!(
        bridge.all_errors(),
        format!(
            "llama-cpp-bridge: --metrics-file: {}: No such file or directory (os error 2); \
             will retry\n",
            file.display()
        )
    );
}

/// A program that is killed when the test ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a web server on this port of the host answers, if there is one.
fn page(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .write_all(b"GET /metrics HTTP/1.0\r\n\r\n")
        .expect("it reads");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("it answers");
    Some(page)
}

#[test]
fn node_exporter_takes_the_files_of_two_bridges() {
    let exporter = "prometheus-node-exporter";
    if Command::new(exporter).arg("--version").output().is_err() {
        return skip("there is no prometheus-node-exporter (Debian's name) to read the file");
    }
    let folder = Directory::new();
    let homes = [Directory::new(), Directory::new()];
    let files = [folder.join("a.prom"), folder.join("b.prom")];
    let model = Tiny::alphabet().write(folder.join("tiny.gguf"));
    let bridges: Vec<Bridge> = homes
        .iter()
        .zip(&files)
        .map(|(home, file)| Bridge::with_model(home, &model, &options(file)))
        .collect();
    bridges[1].connect().exchange("INFER w", &completed("xyz"));
    let infer = r#"requests_total{verb="INFER",outcome="ok"}"#;
    wait_until("the request is in the file", || {
        value(&read(&files[1]), infer) == 1.0
    });
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it has one").port();
    drop(listener);
    let child = Command::new(exporter)
        .args(["--collector.disable-defaults", "--collector.textfile"])
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg("--collector.textfile.directory")
        .arg(folder.path())
        .stderr(Stdio::null())
        .spawn();
    let exporter = Killed(child.expect("it can be started"));
    wait_until("the exporter answers", || page(port).is_some());
    let page = page(port).expect("it has answered");
    assert!(page.contains("node_textfile_scrape_error 0\n"), "{page}");
    for (bridge, count) in bridges.iter().zip(["0", "1"]) {
        // node_exporter sorts the labels.
        let line = format!(
            "llama_cpp_bridge_requests_total{{outcome=\"ok\",socket=\"{}\",verb=\"INFER\"}} {count}\n",
            bridge.socket().display()
        );
        assert!(page.contains(&line), "no {line}in\n{page}");
    }
    assert!(process::runs(exporter.0.id()));
}
