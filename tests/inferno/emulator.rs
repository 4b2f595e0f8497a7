//! Hosted Inferno: its compiler, its emulator and a Limbo program under way.

use std::env;
use std::fmt::Write as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};

use crate::harness::{Directory, LIMIT, lines_of, run, skip};

/// Where the emulator finds the modules that a test compiled.
const LIBRARY: &str = "/dis/lib";

/// Hosted Inferno.
pub(crate) struct Inferno {
    root: PathBuf,
    limbo: PathBuf,
    emu: PathBuf,
}

impl Inferno {
    /// What there is on this machine; without it the test is skipped, and that is said aloud.
    pub(crate) fn or_skip() -> Option<Inferno> {
        let found = Inferno::find();
        if found.is_none() {
            skip("no Inferno (limbo and emu) on PATH, in $INFERNO_ROOT or in /usr/inferno");
        }
        found
    }

    fn find() -> Option<Inferno> {
        let named = env::var_os("INFERNO_ROOT").map(PathBuf::from);
        let tree = named
            .clone()
            .unwrap_or_else(|| PathBuf::from("/usr/inferno"));
        let limbo = tool(&["limbo"], &tree)?;
        let emu = tool(&["emu", "emu-g"], &tree)?;
        // A tool that is on PATH usually stands in ROOT/SYSTEM/PROCESSOR/bin.
        let around = limbo.ancestors().nth(4).map(PathBuf::from);
        let root = [named, Some(tree), around]
            .into_iter()
            .flatten()
            .find(|root| root.join("module/sys.m").is_file())?;
        Some(Inferno { root, limbo, emu })
    }

    /// Compiles a source file into `home`: `-gw` tells warnings, of which there must be none.
    pub(crate) fn compile(&self, home: &Directory, options: &str, source: &Path) {
        let object = source.with_extension("dis");
        let name = object.file_name().expect("a source file has a name");
        let ended = run(Command::new(&self.limbo)
            .arg(options)
            // The sources first: an older version may be installed among Inferno's own.
            .arg(format!("-I{}", sources().display()))
            .arg(format!("-I{}", self.root.join("module").display()))
            .arg("-o")
            .arg(home.join(name.to_str().expect("its name is UTF-8")))
            .arg(source));
        assert_eq!(
            ended.code,
            Some(0),
            "{}: {}{}",
            source.display(),
            ended.output,
            ended.errors
        );
        assert_eq!(
            ended.output + &ended.errors,
            "",
            "warnings in {}",
            source.display()
        );
    }

    /// Compiles the module and this program for it.
    pub(crate) fn compile_with_module(&self, home: &Directory, program: &Path) {
        self.compile(home, "-gw", &sources().join("llambo-ffi.b"));
        self.compile(home, "-gw", program);
    }

    /// Starts a program that was compiled into `home`, with arguments that need no quotes.
    pub(crate) fn start(
        &self,
        home: &Directory,
        settings: &str,
        program: &str,
        arguments: &[&str],
    ) -> Running {
        let command = format!(
            "{settings}\n{LIBRARY}/{program}.dis {}",
            arguments.join(" ")
        );
        self.shell(home, &command)
    }

    /// Starts the shell with these commands; it finds what was compiled into `home`.
    pub(crate) fn shell(&self, home: &Directory, commands: &str) -> Running {
        let script = format!(
            "echo nobroken >/dev/sysctl; bind -b '#U*{}' {LIBRARY}\n\
             {commands}\n\
             echo halt >/dev/sysctl",
            home.path().display(),
        );
        // The emulator ends by killing its process group, which must not be that of the tests.
        let mut child = Command::new(&self.emu)
            .arg(format!("-r{}", self.root.display()))
            .args(["-c0", "/dis/sh.dis", "-c", &script])
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the emulator can be started");
        let lines = lines_of(child.stdout.take().expect("stdout is a pipe"));
        Running {
            child,
            lines,
            seen: String::new(),
        }
    }
}

/// A Limbo program under way. It is killed when the test ends.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: String,
}

impl Running {
    /// Its next line of output, or `None` at the end.
    pub(crate) fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(LIMIT) {
            Ok(line) => {
                let _ = writeln!(self.seen, "{line}");
                Some(line)
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("no more after:\n{}", self.seen),
        }
    }

    /// Expects this line next.
    pub(crate) fn expect(&mut self, line: &str) {
        let found = self.line();
        assert_eq!(
            found.as_deref(),
            Some(line),
            "output so far:\n{}",
            self.seen
        );
    }

    /// All its output, once it has ended.
    pub(crate) fn output(mut self) -> String {
        while self.line().is_some() {}
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first of these programs that is on `PATH` or in the tree.
fn tool(names: &[&str], tree: &Path) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = env::split_paths(&path).collect();
    // A tree may hold the programs of many machines, under Inferno's names for them.
    let system = match env::consts::OS {
        "linux" => "Linux",
        "macos" => "MacOSX",
        "freebsd" => "FreeBSD",
        "netbsd" => "NetBSD",
        "openbsd" => "OpenBSD",
        other => other,
    };
    let processors: &[&str] = match env::consts::ARCH {
        "x86_64" => &["amd64", "386"],
        "x86" => &["386"],
        "aarch64" => &["arm64", "arm"],
        "arm" => &["arm"],
        _ => &["power", "mips", "spim", "sparc"],
    };
    let tree = tree.join(system);
    places.extend(
        processors
            .iter()
            .map(|processor| tree.join(processor).join("bin")),
    );
    let candidates = places
        .iter()
        .flat_map(|place| names.iter().map(|name| place.join(name)));
    candidates.into_iter().find(|candidate| candidate.is_file())
}

/// The directory of the module's sources.
pub(crate) fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("inferno")
}
