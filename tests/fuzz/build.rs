//! What the build of the programs gives the library, and here nothing else does: where the static
//! unwinder is, and which build this is of, which does not matter as nothing else is talked to.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=BUILD_DIGEST={:016x}", 0);
    let asked = Command::new("cc")
        .arg("-print-file-name=libgcc_eh.a")
        .output();
    let answer = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    if let Some(folder) = answer
        .ok()
        .as_deref()
        .and_then(|path| Path::new(path).parent())
    {
        println!("cargo::rustc-link-search=native={}", folder.display());
    }
}
