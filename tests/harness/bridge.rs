//! Starts the real program, in a directory and with a socket of its own.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Client, Directory, LIMIT, STOP_LIMIT, lines_of, ok, process, wait_until};

/// The program under test.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_llama-cpp-bridge"))
}

/// All verbs, as the program lists them for who allows another.
pub(crate) fn verbs() -> BTreeSet<String> {
    let wrong = run(Command::new(program()).args(["--allow", "NOTHING"])).errors;
    let list = wrong
        .split_once("is not one of ")
        .and_then(|(_, list)| list.split(" (").next());
    let list = list.unwrap_or_else(|| panic!("no verbs: {wrong}"));
    list.split(", ").map(String::from).collect()
}

/// A command that starts the program with `options`, on the directory's socket.
///
/// Models run on one thread: the tests run beside each other, and tiny models gain nothing by more.
pub(crate) fn command(home: &Directory, options: &[&str]) -> Command {
    let mut command = Command::new(program());
    command
        .env_remove("LLAMA_CPP_BRIDGE_SOCKET")
        .args(["--threads", "1", "--threads-batch", "1", "--socket"])
        .arg(home.socket())
        .args(options);
    command
}

/// A running bridge. It is killed when the test ends.
pub(crate) struct Bridge {
    child: Child,
    socket: PathBuf,
    output: Receiver<String>,
    errors: Arc<Mutex<String>>,
    /// Collects the errors until standard error is closed.
    reader: Option<JoinHandle<()>>,
}

impl Bridge {
    /// Starts a bridge and returns once it serves.
    pub(crate) fn start(home: &Directory, options: &[&str]) -> Bridge {
        Bridge::start_command(&mut command(home, options), home.socket())
    }

    /// Starts a bridge with a greedy sampler and this model loaded.
    pub(crate) fn with_model(home: &Directory, model: &Path, options: &[&str]) -> Bridge {
        let model = model.to_str().expect("test paths are UTF-8");
        Bridge::start(
            home,
            &[&["--temp", "0", "--model", model], options].concat(),
        )
    }

    /// Starts a bridge by a command of the test's own, which listens on `socket`.
    pub(crate) fn start_command(command: &mut Command, socket: PathBuf) -> Bridge {
        let named = socket.display().to_string();
        Bridge::start_command_as(command, socket, &named)
    }

    /// The same where the command names the socket otherwise, relative to a directory of its own.
    pub(crate) fn start_command_as(command: &mut Command, socket: PathBuf, named: &str) -> Bridge {
        let bridge = Bridge::spawn(command, socket);
        let expected = format!("listening on {named}");
        match bridge.output.recv_timeout(LIMIT) {
            Ok(line) if line == expected => bridge,
            other => panic!(
                "no readiness line but {other:?}; stderr: {}",
                bridge.errors()
            ),
        }
    }

    /// Starts a bridge without waiting for its readiness line.
    pub(crate) fn spawn(command: &mut Command, socket: PathBuf) -> Bridge {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the bridge can be started");
        let output = lines_of(child.stdout.take().expect("stdout is a pipe"));
        let errors = Arc::new(Mutex::new(String::new()));
        let mut stderr = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
        let sink = Arc::clone(&errors);
        let reader = thread::spawn(move || {
            let mut line = Vec::new();
            while stderr
                .read_until(b'\n', &mut line)
                .is_ok_and(|count| count > 0)
            {
                sink.lock()
                    .expect("no holder panics")
                    .push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Bridge {
            child,
            socket,
            output,
            errors,
            reader: Some(reader),
        }
    }

    /// A new client.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.socket)
    }

    /// The path of the socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The lock file beside the socket.
    pub(crate) fn lock(&self) -> PathBuf {
        PathBuf::from(format!("{}.lock", self.socket.display()))
    }

    /// The bridge's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process id of the model process, once there is exactly one.
    pub(crate) fn model_process(&self) -> u32 {
        let mut found = Vec::new();
        wait_until("there is one model process", || {
            found = process::children(self.pid());
            found.len() == 1
        });
        found[0]
    }

    /// Waits until the bridge waits for something to happen, having taken in all it was sent.
    pub(crate) fn wait_until_idle(&self) {
        wait_until("the bridge waits", || process::sleeps(self.pid()));
    }

    /// The next line on standard output, or `None` once it is closed.
    pub(crate) fn output_line(&self) -> Option<String> {
        self.output.recv_timeout(LIMIT).ok()
    }

    /// What came on standard error so far.
    pub(crate) fn errors(&self) -> String {
        self.errors.lock().expect("no holder panics").clone()
    }

    /// All that came on standard error of a bridge that was told to stop.
    pub(crate) fn all_errors(mut self) -> String {
        self.connect().exchange("QUIT", &ok("Goodbye"));
        self.wait();
        let reader = self.reader.take().expect("it is taken only here");
        reader.join().expect("the reader ends");
        self.errors()
    }

    /// Waits until the bridge has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.wait_within(LIMIT)
    }

    /// Waits for the end of a bridge that was told to stop: exit status 0 within
    /// [`STOP_LIMIT`], its model processes ended, socket and lock removed.
    pub(crate) fn expect_stop(&mut self, model_processes: &[u32]) {
        let status = self.wait_within(STOP_LIMIT);
        assert_eq!(status.code(), Some(0), "stderr: {}", self.errors());
        super::wait_within(
            STOP_LIMIT,
            "the model processes end with the bridge",
            || !model_processes.iter().any(|&pid| process::runs(pid)),
        );
        assert!(!self.socket.exists(), "the socket is still there");
        assert!(!self.lock().exists(), "the lock is still there");
        // All that it said is there to be looked at.
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader ends");
        }
    }

    fn wait_within(&mut self, limit: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            let errors = self.errors();
            assert!(
                start.elapsed() < limit,
                "runs after {limit:?}; stderr: {errors}"
            );
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the bridge's standard error ---\n{}", self.errors());
        }
    }
}

/// What came of a program that ended by itself.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit status, `None` after a signal.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) output: String,
    /// Standard error.
    pub(crate) errors: String,
}

/// Runs a command that is expected to end by itself.
pub(crate) fn run(command: &mut Command) -> Ended {
    super::times::start();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command can be started");
    let output = collect(child.stdout.take().expect("stdout is a pipe"));
    let errors = collect(child.stderr.take().expect("stderr is a pipe"));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if start.elapsed() > LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} did not end by itself");
        }
        thread::sleep(Duration::from_millis(2));
    };
    let text = |thread: JoinHandle<String>| thread.join().expect("the reader ends");
    Ended {
        code: status.code(),
        output: text(output),
        errors: text(errors),
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
