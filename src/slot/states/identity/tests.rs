//! Which files are the same model.

use std::io::Write;

use super::*;

/// A file of this size that nobody can find: bytes that differ, then a hole.
fn file(filled: u64, size: u64) -> File {
    let path = std::env::temp_dir().join(format!(
        "llama-cpp-bridge-identity-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    let mut file = options.open(&path).expect("it can be made");
    std::fs::remove_file(&path).expect("it can be removed");
    let bytes: Vec<u8> = (0..filled).map(|i| (i * i % 251) as u8).collect();
    file.write_all(&bytes).expect("it can be written");
    file.set_len(size).expect("it can be set");
    file
}

/// A model in two parts, larger than all that is read of the first.
fn model() -> [File; 2] {
    [file(4096, START + (600 << 20)), file(4096, 8 << 20)]
}

fn name(files: &[File]) -> String {
    Identity::of(files).expect("they can be read").name
}

#[test]
fn a_copy_is_the_same_model() {
    let identity = Identity::of(&model()).expect("it can be read");
    assert!(is_identity(&identity.name), "{}", identity.name);
    assert_eq!(identity.bytes, START + (608 << 20));
    assert_eq!(Identity::of(&model()).expect("it can be read"), identity);
}

#[test]
fn a_byte_of_what_is_parsed_makes_another_model() {
    let original = Identity::of(&model()).expect("it can be read");
    // At both ends of the start, and beside all samples: of the first file, and of the second.
    for (part, at) in [
        (0, 0),
        (0, 4096),
        (0, 10_000_001),
        (0, START - 1),
        (1, 0),
        (1, 5000),
        (1, FURTHER_START - 1),
    ] {
        let changed = model();
        changed[part].write_all_at(b"\xff", at).expect("it can be");
        assert_ne!(name(&changed), original.name, "{part} {at}");
    }
}

#[test]
fn sizes_number_and_order_of_files_make_another_model() {
    let original = name(&model());
    let [first, second] = model();
    assert_ne!(name(&[second, first]), original);
    let [first, second] = model();
    assert_ne!(name(&[first]), original);
    let [first, _] = model();
    assert_ne!(name(&[first, file(4096, (8 << 20) + 1)]), original);
    let third = file(0, 0);
    let [first, _] = model();
    assert_ne!(name(&[first, second, third]), original);
}

#[test]
fn weights_are_sampled() {
    let original = name(&model());
    let [first, second] = model();
    let size = first.metadata().expect("it is there").len();
    first.write_all_at(b"\xff", size - 1).expect("it can be");
    assert_ne!(name(&[first, second]), original);
}

#[test]
fn the_checksum_of_0_1_is_what_it_was() {
    // Of this file 0.1 writes it into the label of a state.
    let identity = Identity::of(&[file(10_000, 10_000)]).expect("it can be read");
    assert_eq!(
        (identity.bytes, identity.hash),
        (10_000, 0x480a_ab3a_c8b9_3cdc)
    );
}
