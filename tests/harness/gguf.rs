//! Writes GGUF files, version 3, as llama.cpp reads them.
//!
//! The format is described in ggml's `docs/gguf.md`: a header, the metadata, a table of tensors,
//! and the tensors' data, each at a multiple of 32 bytes. Weights that are zero are left as holes
//! in the file, so a model of many megabytes costs next to nothing on the disk.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

/// Where each tensor's data starts: the format's default alignment, in bytes.
const ALIGNMENT: u64 = 32;

/// One value of the metadata.
pub(crate) enum Value {
    /// An unsigned number of 16 bits.
    U16(u16),
    /// An unsigned number of 32 bits.
    U32(u32),
    /// A signed number of 32 bits.
    I32(i32),
    /// A float of 32 bits.
    F32(f32),
    /// True or false.
    Bool(bool),
    /// UTF-8 text.
    Text(String),
    /// An array of texts.
    Texts(Vec<String>),
    /// An array of texts that need not be UTF-8.
    Bytes(Vec<Vec<u8>>),
    /// An array of floats.
    F32s(Vec<f32>),
    /// An array of signed numbers of 32 bits.
    I32s(Vec<i32>),
}

impl Value {
    /// The number that the format gives this type.
    fn kind(&self) -> u32 {
        match self {
            Value::U16(_) => 2,
            Value::U32(_) => 4,
            Value::I32(_) => 5,
            Value::F32(_) => 6,
            Value::Bool(_) => 7,
            Value::Text(_) => 8,
            Value::Texts(_) | Value::Bytes(_) | Value::F32s(_) | Value::I32s(_) => 9,
        }
    }

    /// Appends the value without its type.
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::U16(number) => out.extend(number.to_le_bytes()),
            Value::U32(number) => out.extend(number.to_le_bytes()),
            Value::I32(number) => out.extend(number.to_le_bytes()),
            Value::F32(number) => out.extend(number.to_le_bytes()),
            Value::Bool(flag) => out.push(u8::from(*flag)),
            Value::Text(text) => write_text(out, text.as_bytes()),
            Value::Texts(texts) => {
                write_array_header(out, 8, texts.len());
                for text in texts {
                    write_text(out, text.as_bytes());
                }
            }
            Value::Bytes(texts) => {
                write_array_header(out, 8, texts.len());
                for text in texts {
                    write_text(out, text);
                }
            }
            Value::F32s(numbers) => {
                write_array_header(out, 6, numbers.len());
                out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            }
            Value::I32s(numbers) => {
                write_array_header(out, 5, numbers.len());
                out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            }
        }
    }
}

fn write_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

fn write_array_header(out: &mut Vec<u8>, kind: u32, length: usize) {
    out.extend(kind.to_le_bytes());
    out.extend((length as u64).to_le_bytes());
}

/// What a tensor's elements are.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Floats of 32 bits.
    F32,
    /// Blocks of 32 weights of 5 bits with a scale: 22 bytes a block.
    Q5_0,
}

impl Kind {
    /// ggml's number for the type.
    fn number(self) -> u32 {
        match self {
            Kind::F32 => 0,
            Kind::Q5_0 => 6,
        }
    }

    /// The bytes that `elements` of it take.
    fn bytes(self, elements: u64) -> u64 {
        match self {
            Kind::F32 => elements * 4,
            Kind::Q5_0 => elements / 32 * 22,
        }
    }
}

/// A tensor and the few of its weights that are not zero.
pub(crate) struct Tensor {
    name: String,
    shape: Vec<u64>,
    kind: Kind,
    weights: Vec<(u64, f32)>,
}

impl Tensor {
    /// A tensor of zeros; the first of `shape` is the length of a row.
    pub(crate) fn zeros(name: impl Into<String>, shape: &[u64], kind: Kind) -> Tensor {
        Tensor {
            name: name.into(),
            shape: shape.to_vec(),
            kind,
            weights: Vec::new(),
        }
    }

    /// A vector whose elements all are `value`.
    pub(crate) fn filled(name: impl Into<String>, length: u64, value: f32) -> Tensor {
        let mut tensor = Tensor::zeros(name, &[length], Kind::F32);
        tensor.weights = (0..length).map(|at| (at, value)).collect();
        tensor
    }

    /// Sets one weight of an F32 tensor.
    pub(crate) fn set(&mut self, row: u64, column: u64, value: f32) {
        assert!(
            matches!(self.kind, Kind::F32),
            "only F32 weights can be set"
        );
        self.weights.push((row * self.shape[0] + column, value));
    }

    /// The same tensor with another type of element.
    pub(crate) fn with_kind(mut self, kind: Kind) -> Tensor {
        self.kind = kind;
        self
    }

    fn bytes(&self) -> u64 {
        self.kind.bytes(self.shape.iter().product())
    }
}

/// A file to be written.
#[derive(Default)]
pub(crate) struct Gguf {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
}

impl Gguf {
    /// Appends a key of the metadata.
    pub(crate) fn set(&mut self, key: impl Into<String>, value: Value) {
        self.metadata.push((key.into(), value));
    }

    /// Appends a tensor.
    pub(crate) fn add(&mut self, tensor: Tensor) {
        self.tensors.push(tensor);
    }

    /// The same model in two files, of which the first gets the metadata and this many tensors.
    pub(crate) fn split(mut self, tensors: usize) -> [Gguf; 2] {
        let all = self.tensors.len() as i32;
        let mut second = Gguf {
            metadata: Vec::new(),
            tensors: self.tensors.split_off(tensors),
        };
        for (number, part) in [&mut self, &mut second].into_iter().enumerate() {
            part.set("split.no", Value::U16(number as u16));
            part.set("split.count", Value::U16(2));
            part.set("split.tensors.count", Value::I32(all));
        }
        [self, second]
    }

    /// Writes the file.
    pub(crate) fn write(&self, path: &Path) {
        let head = self.head();
        let file = File::create(path).expect("a model file can be created");
        let mut out = BufWriter::new(file);
        out.write_all(&head)
            .expect("the model's head can be written");
        let mut start = aligned(head.len() as u64);
        for tensor in &self.tensors {
            for (at, value) in &tensor.weights {
                out.seek(SeekFrom::Start(start + at * 4))
                    .expect("a weight's place can be reached");
                out.write_all(&value.to_le_bytes())
                    .expect("a weight can be written");
            }
            start += aligned(tensor.bytes());
        }
        out.flush().expect("the weights can be written");
        out.get_ref()
            .set_len(start)
            .expect("the file can be as long as its last tensor");
    }

    /// The header, the metadata and the table of tensors.
    fn head(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3_u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            write_text(&mut out, key.as_bytes());
            out.extend(value.kind().to_le_bytes());
            value.write(&mut out);
        }
        let mut offset: u64 = 0;
        for tensor in &self.tensors {
            write_text(&mut out, tensor.name.as_bytes());
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            out.extend(tensor.shape.iter().flat_map(|length| length.to_le_bytes()));
            out.extend(tensor.kind.number().to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += aligned(tensor.bytes());
        }
        out
    }
}

fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}
