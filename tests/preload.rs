//! Model files that are read into the system's cache ahead of their use.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use crate::harness::{Bridge, Directory, ok, run, skip, wait_until};

/// The bridge's messages about `--preload`, once there are so many.
fn told(bridge: &Bridge, count: usize) -> Vec<String> {
    let lines = || -> Vec<String> {
        let errors = bridge.errors();
        let lines = errors
            .lines()
            .filter_map(|line| line.split_once("--preload: "));
        lines.map(|(_, rest)| rest.to_string()).collect()
    };
    wait_until("all files are told", || lines().len() >= count);
    lines()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn each_file_is_told_with_what_became_of_it() {
    let home = Directory::new();
    let models = home.join("models");
    fs::create_dir_all(models.join("below.gguf")).expect("a directory can be made");
    fs::write(models.join("b.gguf"), vec![1; 5 << 20]).expect("a file can be written");
    fs::write(models.join("a.gguf"), vec![1; 1536]).expect("a file can be written");
    fs::write(models.join("notes.txt"), "no model").expect("a file can be written");
    let huge = File::create(home.join("huge.gguf")).expect("a file can be made");
    huge.set_len(1 << 42).expect("a file can have holes");
    let (file, missing) = (shown(&home.join("huge.gguf")), shown(&home.join("missing")));
    let models = shown(&models);
    let options = [
        "--preload",
        &file,
        "--preload",
        &models,
        "--preload",
        &missing,
    ];
    let bridge = Bridge::start(&home, &options);
    // It serves meanwhile.
    bridge.connect().exchange("PING", &ok("pong"));
    let told = told(&bridge, 5);
    let start = format!("{file}: not read: 4.0 TiB, and memory for ");
    assert!(
        told[0].starts_with(&start) && told[0].ends_with(" is left"),
        "{told:?}"
    );
    assert_eq!(
        told[1..],
        [
            format!("{models}/a.gguf: 1.5 KiB asked for"),
            format!("{models}/b.gguf: 5.0 MiB asked for"),
            format!("{models}/below.gguf: is a directory, not a regular file"),
            format!("{missing}: No such file or directory (os error 2)"),
        ]
    );
}

#[test]
fn a_file_is_in_the_cache_afterwards() {
    if Command::new("fincore").arg("--version").output().is_err() {
        return skip("there is no fincore to look into the cache with");
    }
    let home = Directory::new();
    let path = home.join("cold.gguf");
    let size = 9 << 20;
    fs::write(&path, vec![1; size]).expect("a file can be written");
    let cached = || {
        let mut fincore = Command::new("fincore");
        let ended = run(fincore
            .args(["--bytes", "--noheadings", "--output", "RES"])
            .arg(&path));
        ended
            .output
            .trim()
            .parse::<usize>()
            .expect("fincore tells a number")
    };
    let of = format!("of={}", path.display());
    let drop = ["conv=notrunc,fdatasync", "oflag=nocache", "count=0"];
    run(Command::new("dd").arg("if=/dev/null").arg(of).args(drop));
    if cached() == size {
        return skip("the system does not drop a file from its cache here");
    }
    let bridge = Bridge::start(&home, &["--preload", &shown(&path)]);
    told(&bridge, 1);
    wait_until("the file is in the cache", || cached() == size);
}
