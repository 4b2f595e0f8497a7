//! Options that say how a model is loaded and worked with: each gives a model that answers.

use std::fs;

use crate::harness::{Bridge, Directory, Tiny, command, completed, skip, smollm2_or_skip};

#[test]
fn every_type_of_cache_is_accepted() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    for kind in [
        "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1",
    ] {
        let options = ["--cache-type-k", kind, "--cache-type-v", kind];
        let bridge = Bridge::with_model(&home, &model, &options);
        bridge.connect().exchange("INFER w", &completed("xyz"));
    }
}

#[test]
fn options_of_loading_are_accepted() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let all: [&[&str]; 9] = [
        &["--no-mmap"],
        &["--swa-full"],
        &["--flash-attn", "on"],
        &["--flash-attn", "off"],
        &["--gpu-layers", "0"],
        &["--threads", "2", "--threads-batch", "2"],
        &["--batch-size", "1"],
        &["--ubatch-size", "1"],
        &["--batch-size", "16", "--ubatch-size", "32"],
    ];
    for options in all {
        let bridge = Bridge::with_model(&home, &model, options);
        bridge.connect().exchange(
            "INFER a longer prompt, of more than 16: w",
            &completed("xyz"),
        );
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
