//! Options that say how a model is loaded and worked with: each gives a model that answers.

use std::fs;

use crate::harness::tiny::Architecture;
use crate::harness::{Bridge, Directory, Tiny, command, completed, process, skip, smollm2_or_skip};

/// llama.cpp's log of a bridge with these options, which answers as every other; blanks are single.
fn log(home: &Directory, model: &Tiny, options: &[&str]) -> String {
    let model = model.write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(home, &model, &[&["--verbose"], options].concat());
    bridge.connect().exchange(
        "INFER a longer prompt, of more than 16: w",
        &completed("xyz"),
    );
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n";
    bridge.all_errors().lines().map(words).collect()
}

#[test]
fn keys_and_values_are_kept_in_the_types_that_are_asked_for() {
    let home = Directory::new();
    for kind in [
        "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1",
    ] {
        for (keys, values) in [(kind, kind), (kind, "f16"), ("f16", kind)] {
            let options = ["--cache-type-k", keys, "--cache-type-v", values];
            let log = log(&home, &Tiny::alphabet(), &options);
            let size = log.lines().find(|line| line.contains("K ("));
            let size = size.unwrap_or_else(|| panic!("no size of the cache in {log}"));
            let said = [format!(" K ({keys}): "), format!(" V ({values}): ")];
            assert!(said.iter().all(|said| size.contains(said)), "{size}");
        }
    }
}

#[test]
fn options_of_loading_take_effect() {
    let home = Directory::new();
    let plain = Tiny::alphabet();
    let sliding = Tiny::alphabet().architecture(Architecture::SlidingWindow);
    // What the log says with the options, and does not without them. Without a GPU nothing tells
    // --gpu-layers 0 from its default: that it is passed on shows only with one. The threads are
    // those of tests/model/threads.rs.
    let rows: [(&[&str], &Tiny, &[&str]); 9] = [
        (&["--no-mmap"], &plain, &[" CPU model buffer size = "]),
        (
            &["--flash-attn", "on"],
            &plain,
            &[" flash_attn = enabled\n"],
        ),
        (
            &["--flash-attn", "off"],
            &plain,
            &[" flash_attn = disabled\n"],
        ),
        (&["--swa-full"], &sliding, &[" using full-size SWA cache"]),
        (
            &["--batch-size", "1"],
            &plain,
            &[" n_batch = 1\n", " n_ubatch = 1\n"],
        ),
        (&["--ubatch-size", "1"], &plain, &[" n_ubatch = 1\n"]),
        (
            &["--batch-size", "16", "--ubatch-size", "32"],
            &plain,
            &[" n_batch = 16\n", " n_ubatch = 16\n"],
        ),
        (&["--ctx-size", "256"], &plain, &[" n_ctx = 256\n"]),
        (&["--parallel", "3"], &plain, &[" n_seq_max = 3\n"]),
    ];
    for (options, model, said) in rows {
        let (without, with) = (log(&home, model, &[]), log(&home, model, options));
        for said in said {
            assert!(!without.contains(said), "{said:?} without {options:?}");
            assert!(with.contains(said), "no {said:?} with {options:?}: {with}");
        }
    }
}

#[test]
fn a_model_is_kept_in_memory_only_when_asked_for() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    for (options, kept) in [(&[][..], false), (&["--mlock"], true)] {
        let bridge = Bridge::with_model(&home, &model, options);
        bridge.connect().exchange("INFER w", &completed("xyz"));
        let locked = process::status_of_threads(bridge.model_process(), "VmLck");
        let some = locked.iter().any(|size| size != "0 kB");
        assert_eq!(some, kept, "{options:?}: {locked:?}");
    }
}

#[test]
fn weights_and_cache_lie_in_huge_pages_unless_somebody_tunes_the_c_library() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let setting = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if !setting.is_ok_and(|setting| setting.contains("[madvise]")) {
        return skip("the system does not leave huge pages to programs");
    }
    for (tunables, huge) in [(None, true), (Some(""), false)] {
        let home = Directory::new();
        let model = model.to_str().expect("test paths are UTF-8");
        let mut command = command(&home, &["--model", model]);
        command.env_remove("GLIBC_TUNABLES");
        if let Some(tunables) = tunables {
            command.env("GLIBC_TUNABLES", tunables);
        }
        let bridge = Bridge::start_command(&mut command, home.socket());
        let rollup = format!("/proc/{}/smaps_rollup", bridge.model_process());
        let rollup = fs::read_to_string(rollup).expect("the process is there");
        let line = rollup
            .lines()
            .find(|line| line.starts_with("AnonHugePages:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
        let kilobytes: u64 = kilobytes
            .and_then(|text| text.parse().ok())
            .expect("a number");
        // A KV cache of 90 MiB is what this model has besides its mapped weights.
        assert_eq!(kilobytes > 0, huge, "{rollup}");
    }
}
