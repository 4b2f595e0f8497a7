//! The kernels for Intel AMX: that the compiler leaves them whole, and that they are used.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::deploy::kernels::configured;
use crate::harness::{Bridge, Directory, model_program, skip, smollm2_or_skip};

/// The place `OFFSET(REGISTER)` that an instruction names last, as objdump prints it.
fn place(operands: &str) -> Option<(i64, &str)> {
    let (before, register) = operands.trim().strip_suffix(')')?.rsplit_once('(')?;
    let offset = before.rsplit(',').next()?.trim();
    let (sign, digits) = match offset.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, offset),
    };
    let value = i64::from_str_radix(digits.trim_start_matches("0x"), 16);
    Some((
        sign * value.ok().or(digits.is_empty().then_some(0))?,
        register,
    ))
}

/// How many tile configurations the program loads, and how many of these were stored whole: behind
/// the first eight bytes of one stand the sizes of the tiles.
fn tile_configurations(program: &Path) -> Option<(usize, usize)> {
    let mut objdump = Command::new("objdump");
    objdump.args(["-d", "--no-show-raw-insn"]).arg(program);
    let listing = objdump.output().ok().filter(|done| done.status.success())?;
    let listing = String::from_utf8_lossy(&listing.stdout);
    let lines: Vec<&str> = listing
        .lines()
        .map(|line| line.rsplit('\t').next().unwrap_or(""))
        .collect();
    let loads = lines.iter().enumerate().filter_map(|(at, line)| {
        let (start, register) = place(line.strip_prefix("ldtilecfg")?)?;
        Some(lines[at.saturating_sub(40)..at].iter().any(|line| {
            let stored = line.starts_with("vmov") || line.starts_with("mov");
            let whole = place(line).is_some_and(|(offset, base)| {
                base == register && (start + 8..start + 64).contains(&offset)
            });
            stored && whole
        }))
    });
    let loads: Vec<bool> = loads.collect();
    Some((loads.len(), loads.iter().filter(|whole| **whole).count()))
}

#[test]
fn the_compiler_keeps_the_stores_that_amx_kernels_load_their_tiles_by() {
    const SOURCE: &str = "#include <immintrin.h>\n\
        struct configuration { unsigned char palette, row, none[14]; unsigned short columns[16]; \
        unsigned char rows[16]; };\n\
        void configure() { alignas(64) configuration tiles = {}; tiles.palette = 1; \
        for (int i = 0; i < 8; i++) { tiles.rows[i] = 8; tiles.columns[i] = 64; } \
        _tile_loadconfig(&tiles); }\n";
    let folder = Directory::new();
    let (source, object) = (folder.join("tiles.cpp"), folder.join("tiles.o"));
    fs::write(&source, SOURCE).expect("it can be written");
    let mut compile = Command::new("c++");
    compile
        .args(["-O3", "-march=sapphirerapids", "-c", "-o"])
        .arg(&object)
        .arg(&source)
        .args(configured("CXXFLAGS").split(' '));
    if !compile.output().is_ok_and(|done| done.status.success()) {
        return skip("no C++ compiler here that knows Intel AMX");
    }
    match tile_configurations(&object) {
        Some(found) => assert_eq!(found, (1, 1), "{}", configured("CXXFLAGS")),
        None => skip("no objdump here (binutils)"),
    }
}

#[test]
fn the_built_program_keeps_the_stores_that_its_amx_kernels_load_their_tiles_by() {
    match tile_configurations(&model_program()) {
        Some((0, _)) => skip("built without AMX kernels: this processor has none"),
        Some((loads, whole)) => assert_eq!(loads, whole),
        None => skip("no objdump here (binutils)"),
    }
}

#[test]
fn a_processor_with_amx_uses_it_for_short_and_long_prompts() {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !processor.contains("amx_int8") {
        return skip("this processor has no AMX");
    }
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let options = ["-n", "4", "--temp", "0", "--verbose"];
    let bridge = Bridge::with_model(&home, &model, &options);
    let mut client = bridge.connect();
    let answered = r#"{"status":"ok","message":"Inference completed","data":""#;
    for prompt in [
        "Two plus".to_string(),
        "one two three four five ".repeat(100),
    ] {
        client.ask(&format!("INFER {prompt}"));
        let reply = client.receive();
        assert!(reply.starts_with(answered), "{reply}");
        assert!(!reply.ends_with(r#""data":""}"#), "{reply}");
    }
    drop(client);
    let log = bridge.all_errors();
    assert!(log.contains("AMX model buffer size"), "{log}");
}
