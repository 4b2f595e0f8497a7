//! `make install`, and the Debian package: the programs, their pages, completions, units and
//! examples, each in its place.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::deploy::haproxy::have;
use crate::docs::page::{name, pages};
use crate::harness::{Bridge, Directory, Ended, Tiny, ok, program, run, skip};

/// The folder with the Makefile.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("inferno")
}

/// The folder that the programs were built in.
fn built() -> &'static Path {
    program().parent().expect("a program lies in a folder")
}

/// Runs make for a target; nothing of what a surrounding make or cargo set is passed on.
fn make(target: &str, variables: &[String]) -> Ended {
    run(Command::new("make")
        .arg("-C")
        .arg(folder())
        .arg(target)
        .args(variables)
        .env_remove("MAKEFLAGS")
        .env("CARGO_TARGET_DIR", built().parent().expect("target")))
}

/// Every file below a folder, as paths from it, in order.
fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("it can be listed") {
            let path = entry.expect("it can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).expect("it lies there");
                found.push(name.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// What is installed besides the manual pages and the examples, relative to PREFIX.
const INSTALLED: [&str; 10] = [
    "bin/llama-cpp-bridge",
    "bin/llambo",
    "lib/systemd/system/llama-cpp-bridge@.service",
    "lib/systemd/system/llama-cpp-bridge@.socket",
    "libexec/llama-cpp-bridge/llama-cpp-bridge-model",
    "share/bash-completion/completions/llambo",
    "share/doc/llama-cpp-bridge/LICENSE",
    "share/doc/llama-cpp-bridge/README.md",
    "share/fish/vendor_completions.d/llambo.fish",
    "share/zsh/site-functions/_llambo",
];

/// All of that and every page in `man/`, in order.
fn installed() -> Vec<String> {
    let place = |page: PathBuf| {
        let (_, section) = name(&page).rsplit_once('.').expect("it has a section");
        format!("share/man/man{section}/{}", name(&page))
    };
    let mut all: Vec<String> = INSTALLED.map(String::from).to_vec();
    all.extend(pages().into_iter().map(place));
    all.sort();
    all
}

const EXAMPLES: &str = "share/doc/llama-cpp-bridge/examples/";

/// The examples in the sources.
fn examples() -> Vec<String> {
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("man/examples"))
}

#[test]
fn make_install_puts_everything_under_the_prefix_and_uninstall_takes_it_away() {
    let home = Directory::new();
    let variables = [
        format!("DESTDIR={}", home.path().display()),
        "PREFIX=/opt/bridge".to_string(),
        format!("BUILT={}", built().display()),
    ];
    let made = make("install", &variables);
    assert_eq!(made.code, Some(0), "{made:?}");
    let root = home.join("opt/bridge");
    let (shown, rest): (Vec<_>, Vec<_>) = files(&root)
        .into_iter()
        .partition(|name| name.starts_with(EXAMPLES));
    assert_eq!(rest, installed());
    let shown: Vec<&str> = shown.iter().map(|name| &name[EXAMPLES.len()..]).collect();
    assert_eq!(shown, examples());
    assert_eq!(files(home.path()).len(), rest.len() + shown.len());
    for name in files(&root) {
        let mode = fs::metadata(root.join(&name)).expect("it is there");
        let program = name.starts_with("bin/") || name.starts_with("libexec/");
        let expected = if program { 0o755 } else { 0o644 };
        assert_eq!(mode.permissions().mode() & 0o777, expected, "{name}");
    }
    let unit = root.join("lib/systemd/system/llama-cpp-bridge@.service");
    let unit = fs::read_to_string(unit).expect("the unit is text");
    assert!(unit.contains("ExecStart=/opt/bridge/bin/llama-cpp-bridge "));
    assert!(!unit.contains("/usr/bin/llama"), "{unit}");

    let gone = make("uninstall", &variables);
    assert_eq!(gone.code, Some(0), "{gone:?}");
    assert_eq!(files(home.path()), [""; 0]);
}

#[test]
fn what_was_installed_runs() {
    let home = Directory::new();
    let variables = [
        format!("DESTDIR={}", home.path().display()),
        format!("BUILT={}", built().display()),
    ];
    assert_eq!(make("install", &variables).code, Some(0));
    for name in ["llama-cpp-bridge", "llambo"] {
        let version = run(Command::new(home.join("usr/local/bin").join(name)).arg("--version"));
        assert_eq!(version.code, Some(0), "{version:?}");
        assert!(version.output.starts_with(&format!("{name} ")));
    }
    // It finds the model program in its place.
    let model = Tiny::alphabet().write(home.join("model.gguf"));
    let mut command = Command::new(home.join("usr/local/bin/llama-cpp-bridge"));
    command.arg("--socket").arg(home.socket());
    command.arg("--model").arg(&model);
    let bridge = Bridge::start_command(&mut command, home.socket());
    let status = format!("Model loaded: {}", model.display());
    bridge.connect().exchange("STATUS", &ok(&status));
}

#[test]
fn the_debian_package_holds_the_same_and_lintian_finds_nothing() {
    for tool in ["cargo-deb", "dpkg-deb"] {
        if !have(tool) {
            return skip(&format!("there is no {tool}"));
        }
    }
    let home = Directory::new();
    let package = home.join("bridge.deb");
    let made = make("deb", &[format!("ARGS=--output {}", package.display())]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let root = home.join("root");
    let unpacked = run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&root));
    assert_eq!(unpacked.code, Some(0), "{unpacked:?}");
    let there = files(&root);
    for name in installed() {
        let name = match name.as_str() {
            "share/doc/llama-cpp-bridge/LICENSE" => "share/doc/llama-cpp-bridge/copyright".into(),
            "share/zsh/site-functions/_llambo" => "share/zsh/vendor-completions/_llambo".into(),
            page if page.starts_with("share/man/") => format!("{page}.gz"),
            other => other.to_string(),
        };
        assert!(there.contains(&format!("usr/{name}")), "{name}: {there:?}");
    }
    for name in examples() {
        let plain = format!("usr/{EXAMPLES}{name}");
        let packed = format!("{plain}.gz");
        assert!(there.contains(&plain) || there.contains(&packed), "{name}");
    }
    let version = run(Command::new(root.join("usr/bin/llambo")).arg("--version"));
    assert_eq!(version.code, Some(0), "{version:?}");
    if !have("lintian") {
        return skip("there is no lintian");
    }
    let checked = run(Command::new("lintian")
        .args([
            "--allow-root",
            "--fail-on",
            "warning",
            "--no-tag-display-limit",
        ])
        .arg(&package));
    assert_eq!(checked.code, Some(0), "{checked:?}");
}
