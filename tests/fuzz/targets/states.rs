//! Saved states: a file that was written is read with the label that it was given; one of which a
//! byte is missing or another is not; and nothing that is not one by its last bytes is taken.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use llama_cpp_bridge::protocol::json::{Kind, parse};
use llama_cpp_bridge::shared::failure::Code;
use llama_cpp_bridge::shared::settings::{FlashAttention, KvType};
use llama_cpp_bridge::shared::state_file::{
    Label, MAGIC, TRAILER, VERSION, difference, read, seal,
};

use super::Draw;

/// The first byte chooses: the rest is a file, or the end of one whose checksum and length are
/// right, or what a file is made of and how it is damaged.
pub(crate) fn check(input: &[u8]) {
    let mut draw = Draw::new(input);
    match draw.below(3) {
        0 => any(draw.rest()),
        1 => any(&summed(draw.rest())),
        _ => written(&mut draw),
    }
}

/// A file with any bytes: what is taken is a state by a second look at them.
fn any(bytes: &[u8]) {
    let read = read_back(bytes);
    match (read, second_look(bytes)) {
        (Ok(label), Some((tokens, position))) => {
            assert_eq!((f64::from(label.tokens), label.bytes), (tokens, position));
        }
        (Ok(label), None) => panic!("taken for a state: {label:?}"),
        (Err(code), _) => assert_eq!(code, Code::BadRequest),
    }
}

/// These bytes and the rest of a file: the length of its label is what the first byte says.
fn summed(bytes: &[u8]) -> Vec<u8> {
    let (first, label) = bytes.split_first().unwrap_or((&0, &[]));
    let length = match first {
        255 => label.len() as u32 + 1,
        254 => u32::MAX,
        first => label.len().saturating_sub(usize::from(*first)) as u32,
    };
    let mut file = [label, &length.to_le_bytes()].concat();
    let sum = crc(&file);
    file.extend(sum.to_le_bytes());
    file.extend(MAGIC);
    file
}

/// A file that was written, whole and then damaged.
fn written(draw: &mut Draw<'_>) {
    let label = label(draw);
    let (cut, at, bit) = (draw.below(256), draw.number() as usize, draw.below(8));
    let content = draw.rest();
    let label = Label {
        bytes: content.len() as u64,
        ..label
    };
    let bytes = file_of(content, &label);
    assert_eq!(read_back(&bytes).as_ref(), Ok(&label));
    assert_eq!(difference(&label, &label), None);
    let mut flipped = bytes.clone();
    flipped[at % bytes.len()] ^= 1 << bit;
    assert_eq!(read_back(&flipped), Err(Code::BadRequest), "a bit flipped");
    let cut = &bytes[..bytes.len() - 1 - cut.min(bytes.len() - 1)];
    // What was saved can end like a state of its own.
    assert!(read_back(cut).is_err() || second_look(cut).is_some(), "cut");
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(read_back(&longer), Err(Code::BadRequest), "a byte more");
}

fn label(draw: &mut Draw<'_>) -> Label {
    let types = [
        KvType::F32,
        KvType::F16,
        KvType::Bf16,
        KvType::Q8_0,
        KvType::Iq4Nl,
    ];
    Label {
        version: VERSION,
        model_bytes: draw.number(),
        model_hash: draw.number(),
        context_size: draw.number() as u32,
        cache_type_k: draw.pick(&types),
        cache_type_v: draw.pick(&types),
        flash_attn: draw.pick(&[
            FlashAttention::On,
            FlashAttention::Off,
            FlashAttention::Auto,
        ]),
        tokens: draw.number() as u32,
        prompt: draw.number() as u32,
        bytes: 0,
    }
}

/// What the program makes of a file with these bytes.
fn read_back(bytes: &[u8]) -> Result<Label, Code> {
    with_file(|file| {
        file.set_len(0).expect("a file can be emptied");
        file.write_all_at(bytes, 0).expect("a file can be written");
        read(file, bytes.len() as u64, "name").map_err(|failure| failure.code)
    })
}

/// The file that is written for this content.
fn file_of(content: &[u8], label: &Label) -> Vec<u8> {
    with_file(|file| {
        file.set_len(0).expect("a file can be emptied");
        file.seek(SeekFrom::Start(0)).expect("a file has a start");
        file.write_all(content).expect("a file can be written");
        let size = seal(file, label).expect("a file can be written");
        let mut bytes = vec![0; size as usize];
        file.read_exact_at(&mut bytes, 0).expect("that is its size");
        assert_eq!(file.metadata().expect("it is open").len(), size);
        bytes
    })
}

/// Calls this with a file that has no name, one for each thread.
fn with_file<T>(work: impl FnOnce(&mut File) -> T) -> T {
    thread_local! {
        static FILE: RefCell<File> = RefCell::new(unnamed());
    }
    FILE.with_borrow_mut(work)
}

fn unnamed() -> File {
    let thread = std::thread::current().id();
    let name = format!("fuzz-{}-{thread:?}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).open(&path);
    let file = file.expect("a temporary file can be made");
    std::fs::remove_file(path).expect("and removed");
    file
}

/// The tokens, and the position of the label, of a state by the description of the format.
fn second_look(bytes: &[u8]) -> Option<(f64, u64)> {
    let rest = bytes.strip_suffix(&MAGIC)?;
    let (rest, sum) = rest.split_last_chunk::<4>()?;
    if crc(rest) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (rest, length) = rest.split_last_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let position = bytes.len() - TRAILER - length.min(rest.len());
    let label = parse(std::str::from_utf8(&rest[position..]).ok()?).ok()?;
    let number = |wanted: &str| {
        // Of two fields of one name the last counts.
        let found = label.fields().filter(|(name, _)| *name == wanted).last()?;
        match found.1.kind {
            Kind::Number(number) => Some(number),
            _ => None,
        }
    };
    let fits = length <= 4096 && number("bytes")? == position as f64;
    fits.then_some((number("tokens")?, position as u64))
}

/// CRC-32, a bit at a time.
fn crc(bytes: &[u8]) -> u32 {
    let byte = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| match sum & 1 {
            1 => sum >> 1 ^ 0xedb8_8320,
            _ => sum >> 1,
        })
    };
    !bytes.iter().fold(u32::MAX, byte)
}
