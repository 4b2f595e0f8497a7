//! Has the linker put the bridge between llama.cpp and GCC's OpenMP where that is what llama.cpp
//! computes with, so that the number of its threads can follow the machine's load: see
//! src/bin/llama-cpp-bridge-model/openmp.rs. Where it cannot be, the bridge is built without.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the bridge needs of GCC's OpenMP: the call that starts threads, and the variable that says
/// how long they look for work before they sleep, which only a static library shows.
const SYMBOLS: [&str; 2] = ["GOMP_parallel", "gomp_spin_count_var"];

fn main() {
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=Cargo.lock");
    println!("cargo::rustc-env=BUILD_DIGEST={:016x}", digest());
    println!("cargo::rerun-if-env-changed=CC");
    println!("cargo::rustc-check-cfg=cfg(openmp_in_hand)");
    if openmp_is_gnu() {
        println!("cargo::rustc-cfg=openmp_in_hand");
        println!("cargo::rustc-link-arg-bin=llama-cpp-bridge-model=-Wl,--wrap=GOMP_parallel");
    }
}

/// Whether llama.cpp is going to be linked with GCC's OpenMP, and that has all of [`SYMBOLS`].
fn openmp_is_gnu() -> bool {
    let target = |name: &str| env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") != "linux" || target("ENV") != "gnu" {
        return false;
    }
    let Some(library) = library() else {
        return false;
    };
    let Ok(bytes) = fs::read(library) else {
        return false;
    };
    SYMBOLS.iter().all(|symbol| holds(&bytes, symbol))
}

/// The static library of the C compiler at hand, which must be GCC: others use an OpenMP of their
/// own, even where they find this one.
fn library() -> Option<PathBuf> {
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_string());
    let says = |argument: &str| {
        let output = Command::new(&compiler).arg(argument).output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    // A machine of another kind has another compiler, which the target's own variables name.
    if env::var("HOST") != env::var("TARGET") || !says("--version")?.contains("Free Software") {
        return None;
    }
    let path = PathBuf::from(says("-print-file-name=libgomp.a")?.trim());
    // A compiler that knows no such file repeats its name.
    path.is_absolute().then_some(path)
}

/// Whether an archive's table of names has this one, whole.
fn holds(archive: &[u8], name: &str) -> bool {
    let name = format!("\0{name}\0");
    archive
        .windows(name.len())
        .any(|window| window == name.as_bytes())
}

/// A number that changes with any source of the programs, or a crate that they are built of: FNV-1a
/// over the names and bytes of all files, in the order of their names.
fn digest() -> u64 {
    let mut files = vec![PathBuf::from("Cargo.lock"), PathBuf::from("Cargo.toml")];
    collect(Path::new("src"), &mut files);
    files.sort();
    let mut digest: u64 = 0xcbf2_9ce4_8422_2325;
    for file in files {
        let bytes = fs::read(&file).unwrap_or_default();
        let name = file.to_string_lossy().into_owned().into_bytes();
        for byte in name.into_iter().chain([0]).chain(bytes).chain([0]) {
            digest = (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    digest
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}
