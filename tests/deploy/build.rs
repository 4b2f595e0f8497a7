//! `inferno/deploy.sh`: what it finds missing before a build, and what it makes of one that failed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::deploy::instances::script;
use crate::harness::{Directory, Ended, run};

/// What every Debian has and the script needs.
const BASICS: [&str; 11] = [
    "cat", "dirname", "env", "grep", "id", "ls", "sed", "sort", "tee", "tr", "uname",
];

/// A folder of shell scripts that stand in for programs.
pub(crate) struct StandIns(pub(crate) Directory);

impl StandIns {
    /// Those of a machine that has all that building needs.
    pub(crate) fn new() -> StandIns {
        let stand_ins = StandIns(Directory::new());
        for tool in ["c++", "cc", "cmake", "make"] {
            stand_ins.add(tool, "exit 1");
        }
        stand_ins.add("cargo", "exit 1");
        stand_ins.add("rustc", "echo 'rustc 1.99.0 (a stand-in)'");
        fs::write(stand_ins.0.join("libclang.so"), "").expect("a file can be written");
        stand_ins
    }

    /// Puts a script in place of a program.
    pub(crate) fn add(&self, name: &str, text: &str) {
        StandIns::write(&self.0.join(name), &format!("#!/bin/sh\n{text}\n"));
    }

    /// Writes a program.
    pub(crate) fn write(path: &Path, text: &str) {
        // By a shell: a file that a test has open for writing cannot be run by another's fork.
        let script = "cat >\"$0\" <<'END'\n";
        let script = format!("{script}{text}END\nchmod +x \"$0\"");
        let ended = run(Command::new("sh").arg("-c").arg(script).arg(path));
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }

    /// Puts the stand-ins before the programs of this machine.
    pub(crate) fn build_here<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        // A test installs nothing.
        self.add("apt-get", "exit 1");
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", self.0.path().display()))
            .env("LIBCLANG_PATH", self.0.path())
    }

    /// Runs build-bridge with no programs but the stand-ins and the basic ones, into the folder
    /// `target` beside the stand-ins.
    pub(crate) fn build_alone(&self, settings: &[(&str, &Path)]) -> Ended {
        for tool in BASICS {
            let find = format!("command -v {tool}");
            let found = run(Command::new("sh").args(["-c", &find])).output;
            // A second build finds them there.
            let _ = symlink(found.trim(), self.0.join(tool));
        }
        let mut command = Command::new("/bin/sh");
        command.arg(script()).arg("build-bridge").env_clear();
        command
            .env("PATH", self.0.path())
            .env("HOME", self.0.path())
            .env("CARGO_TARGET_DIR", self.0.join("target"));
        run(command.envs(settings.iter().copied()))
    }
}

#[test]
fn what_is_missing_is_named_where_it_cannot_be_installed() {
    let stand_ins = StandIns(Directory::new());
    let ended = stand_ins.build_alone(&[]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.errors.contains("no Rust toolchain"), "{ended:?}");

    for tool in ["cargo", "rustc"] {
        stand_ins.add(tool, "echo 'rustc 1.99.0 (a stand-in)'");
    }
    let ended = stand_ins.build_alone(&[("DEPLOY_SYSTEM_ROOT", stand_ins.0.path())]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(
        ended.errors,
        "deploy.sh: missing here, please install: cmake g++ gcc libclang-dev make \
         (the names are Debian's)\n"
    );
}

/// Whether the script is content with a system that has these files; `->` makes a dangling link.
fn is_enough(files: &[&str]) -> bool {
    let stand_ins = StandIns::new();
    stand_ins.add("cargo", "exit 0");
    let root = Directory::new();
    for file in files {
        let path = root.join(file.trim_start_matches("->"));
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("it can be made");
        if file.starts_with("->") {
            symlink("nowhere", &path).expect("a link can be made");
        } else {
            fs::write(&path, "").expect("a file can be written");
        }
    }
    let ended = stand_ins.build_alone(&[("DEPLOY_SYSTEM_ROOT", root.path())]);
    if ended.code == Some(1) {
        let expected = "please install: libclang-dev (the names are Debian's)\n";
        assert!(ended.errors.ends_with(expected), "{files:?}: {ended:?}");
    }
    ended.code == Some(0)
}

#[test]
fn libclang_is_looked_for_where_and_by_the_names_that_bindgen_has() {
    let debian = "usr/lib/llvm-14/lib/clang/14.0.6/include/stddef.h";
    let other = "usr/lib/clang/17/include/stddef.h";
    let developer = "Library/Developer/CommandLineTools/usr/lib/";
    for files in [
        &["usr/lib/x86_64-linux-gnu/libclang-14.so.1", debian],
        &["usr/lib/llvm-14/lib/libclang.so", debian],
        &["usr/lib64/libclang.so.17", other],
        &["usr/lib/libclang-17.so", other],
        &["usr/local/lib/libclang.so.17.0.6", other],
        &[
            &format!("{developer}libclang.dylib"),
            &format!("{developer}clang/15.0.0/include/stddef.h"),
        ],
    ] {
        assert!(is_enough(files), "{files:?}");
    }
    for files in [
        &[][..],
        &[debian],
        // Many desktop packages bring this one, which is another library.
        &["usr/lib/x86_64-linux-gnu/libclang-cpp.so.14", debian],
        &["usr/lib/llvm-14/lib/libclang-cpp.so", debian],
        &["usr/lib/llvm-14/lib/libclangAST.a", debian],
        &["->usr/lib/llvm-14/lib/libclang.so", debian],
        // What doxygen installs: the library without the headers.
        &["usr/lib/x86_64-linux-gnu/libclang-14.so.1"],
        &["usr/lib/a/b/c/libclang.so", debian],
    ] {
        assert!(!is_enough(files), "{files:?}");
    }
}

#[test]
fn libclang_is_found_through_the_variables_that_bindgen_follows() {
    let stand_ins = StandIns::new();
    stand_ins.add("cargo", "echo \"LIBCLANG_PATH: ${LIBCLANG_PATH-none}\"");
    let root = Directory::new();
    let folder = root.join("a folder's [name]");
    fs::create_dir_all(folder.join("lib/clang/17/include")).expect("it can be made");
    fs::write(folder.join("lib/libclang.so.17"), "").expect("it can be written");
    fs::write(folder.join("lib/clang/17/include/stddef.h"), "").expect("it can be written");
    fs::write(root.join("libclang-cpp.so"), "").expect("it can be written");
    let config = root.join("its config");
    StandIns::write(
        &config,
        &format!("#!/bin/sh\necho \"{}\"\n", folder.display()),
    );
    let system = ("DEPLOY_SYSTEM_ROOT", root.path());
    let several = format!("/nowhere::{}/lib", folder.display());
    for setting in [
        ("LIBCLANG_PATH", folder.join("lib")),
        ("LIBCLANG_PATH", folder.join("lib/libclang.so.17")),
        ("LLVM_CONFIG_PATH", config),
        ("LD_LIBRARY_PATH", PathBuf::from(&several)),
        ("LIBRARY_PATH", PathBuf::from(&several)),
    ] {
        let ended = stand_ins.build_alone(&[system, (setting.0, &setting.1)]);
        assert_eq!(ended.code, Some(0), "{setting:?}: {ended:?}");
    }
    // An empty one leads bindgen astray, so that cargo does not get it.
    let empty = ("LIBCLANG_PATH", Path::new(""));
    let found = ("LIBRARY_PATH", Path::new(&several));
    let ended = stand_ins.build_alone(&[system, empty, found]);
    assert!(ended.errors.contains("LIBCLANG_PATH: none\n"), "{ended:?}");

    // No package helps against a wrong one.
    for wrong in [
        folder.clone(),
        folder.join("nowhere"),
        root.join("libclang-cpp.so"),
        PathBuf::from("lib"),
    ] {
        let ended = stand_ins.build_alone(&[system, found, ("LIBCLANG_PATH", &wrong)]);
        assert_eq!(ended.code, Some(1), "{wrong:?}: {ended:?}");
        let expected = format!(
            "deploy.sh: LIBCLANG_PATH is '{}', but there is no libclang: \
             unset it, or name the folder of one by its full path\n",
            wrong.display()
        );
        assert_eq!(ended.errors, expected);
    }
}

/// Runs build-bridge with a cargo that says this and ends with this status.
fn build_that_says(output: &str, status: u8) -> Ended {
    let stand_ins = StandIns::new();
    fs::write(stand_ins.0.join("output"), output).expect("it can be written");
    let text = format!(
        "cat '{}' >&2\nexit {status}",
        stand_ins.0.join("output").display()
    );
    stand_ins.add("cargo", &text);
    stand_ins.build_alone(&[("LIBCLANG_PATH", stand_ins.0.path())])
}

#[test]
fn a_build_that_fails_ends_with_the_line_that_says_what_is_missing() {
    let noise = "  cargo:rerun-if-changed=/llama.cpp/ggml/CMakeLists.txt\n".repeat(300);
    for (said, reason) in [
        (
            "couldn't find any valid shared libraries matching: ['libclang.so', 'libclang-*.so']",
            "no libclang was found: install libclang-dev, or set LIBCLANG_PATH to the folder of a \
             libclang.so",
        ),
        (
            "  /usr/include/stdio.h:33:10: fatal error: 'stddef.h' file not found",
            "libclang has no C headers: install libclang-dev and libc6-dev",
        ),
        (
            "  failed to execute command: No such file or directory (os error 2)\n  \
             is `cmake` not installed?",
            "no cmake was found: install cmake",
        ),
        (
            "  CMake Error at CMakeLists.txt:1 (cmake_minimum_required):\n    \
             CMake 3.28 or higher is required.  You are running version 3.25.1",
            "this cmake is too old",
        ),
        (
            "  CMake Error at CMakeLists.txt:2 (project):\n    \
             No CMAKE_CXX_COMPILER could be found.",
            "no C++ compiler was found: install g++",
        ),
        (
            "  error occurred in cc-rs: failed to find tool \"c++\": No such file or directory",
            "no C++ compiler was found: install g++",
        ),
        (
            "  CMake Error: CMake was unable to find a build program corresponding to \"Unix \
             Makefiles\".  CMAKE_MAKE_PROGRAM is not set.\n  \
             CMake Error: CMAKE_C_COMPILER not set, after EnableLanguage",
            "no make was found: install make",
        ),
        (
            "error: linker `cc` not found",
            "no linker was found: install gcc",
        ),
        (
            "  /tmp/ccgvBxCM.s: fatal error: error writing to /tmp/ccgvBxCM.s: No space left on \
             device\n  CMake Error: nothing",
            "no space is left on the disk of the target folder, or of /tmp",
        ),
        (
            "  c++: fatal error: Killed signal terminated program cc1plus\n  \
             compilation terminated.",
            "too little memory: close other programs, or add --jobs 1, which takes the least",
        ),
        (
            "warning: spurious network error (3 tries remaining): [6] Couldn't resolve host name \
             (Could not resolve host: index.crates.io)\nerror: failed to download",
            "crates.io cannot be reached: check the network, its proxy, and ca-certificates",
        ),
        (
            "warning: unused\nerror[E0425]: cannot find value `x`\nerror: could not compile",
            "error[E0425]: cannot find value `x`",
        ),
        ("nothing that is known", "see above"),
    ] {
        let output = format!("{said}\n{noise}");
        let ended = build_that_says(&output, 101);
        assert_eq!(ended.code, Some(1), "{said}: {}", ended.errors);
        let expected = format!("deploy.sh: cargo build failed: {reason}\n");
        assert_eq!(
            ended.errors.strip_prefix(&output),
            Some(expected.as_str()),
            "{said}"
        );
    }
}

#[test]
fn a_build_that_succeeds_is_not_judged_by_what_it_said() {
    let ended = build_that_says("warning: No space left on device\n", 0);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.errors.contains("deploy.sh: built "), "{ended:?}");
}
