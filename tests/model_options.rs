//! Options that say how a model is loaded and worked with: each gives a model that answers.

use crate::harness::{Bridge, Directory, Tiny, completed};

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
