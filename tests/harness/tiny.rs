//! Tiny models whose text is known before they are run.
//!
//! The vocabulary is the 256 bytes. The embedding of a byte is one-hot, the layers add nothing, and
//! the output matrix gives each byte the successor that the test chose; a byte without a successor
//! ends the text. Text therefore follows from the last byte of the prompt, unless the model is told
//! to remember a byte: then one attention head carries it to every later position, so that an
//! answer shows what the model's cache holds.

mod layers;

use std::path::{Path, PathBuf};

use super::bert::Pooling;
use super::gguf::{Gguf, Kind, Tensor, Value};
use layers::{CONVOLUTION, INNER, RANK, STATE};

/// The tokens before the bytes: `<unk>`, `<s>` (begins every prompt) and `</s>` (ends the text).
const BYTE_TOKENS: u64 = 3;
/// The token that ends the text.
const END: u64 = 2;
/// The token by which SentencePiece vocabularies write a space.
const SPACE: u64 = BYTE_TOKENS + 256;
/// Tokens of every model.
const VOCABULARY: u64 = SPACE + 1;
/// Length of an embedding: one place for a token, rounded up for the quantized types' blocks of 32.
const EMBEDDING: u64 = 288;
/// The place of an embedding that says that the remembered byte was seen.
const SEEN: u64 = VOCABULARY;
/// The place of the first token that a model has beside those of every model.
const EXTRA: u64 = SEEN + 1;
/// Length of an attention head.
const HEAD: u64 = 32;
/// Length of the feed-forward layer, which is all zeros.
const FEED_FORWARD: u64 = 32;
/// Weight of a successor: far enough above the others' zero that no temperature hides it.
const CHOSEN: f32 = 2.0;
/// Weight that lets the remembered byte win over every successor.
const REMEMBERED: f32 = 200.0;

/// llama.cpp's architectures that the models are written for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Architecture {
    /// Attention over the whole context.
    Llama,
    /// Attention over a window of 16 tokens in most layers (as Gemma 3).
    SlidingWindow,
    /// A recurrent state, which cannot be cut at a token (as Mamba).
    Recurrent,
}

/// A model to be written.
#[derive(Clone)]
pub(crate) struct Tiny {
    architecture: Architecture,
    context: u32,
    layers: u32,
    heads: u64,
    successors: Vec<(u8, u8, f32)>,
    remembered: Option<(u8, u8)>,
    poison: Option<u8>,
    /// Whether its last norm is a number; else it loads and decodes, to nothing of use.
    numbers: bool,
    unused_tensors: u32,
    space_prefix: bool,
    add_eos: bool,
    extra: Vec<Extra>,
    pooling: Option<Pooling>,
}

/// A token that a model has beside those of every model.
#[derive(Clone)]
struct Extra {
    text: Vec<u8>,
    /// llama.cpp's type of it.
    kind: i32,
    /// The byte after which it comes.
    after: Option<u8>,
}

impl Tiny {
    /// A model in which every byte ends the text.
    pub(crate) fn mute() -> Tiny {
        Tiny {
            architecture: Architecture::Llama,
            context: 512,
            layers: 1,
            heads: 1,
            successors: Vec::new(),
            remembered: None,
            poison: None,
            numbers: true,
            unused_tensors: 0,
            space_prefix: false,
            add_eos: false,
            extra: Vec::new(),
            pooling: None,
        }
    }

    /// After `a` comes `b`, and so on to `z`, which ends the text.
    pub(crate) fn alphabet() -> Tiny {
        Tiny::mute().chain("abcdefghijklmnopqrstuvwxyz")
    }

    /// The alphabet over and over, without an end.
    pub(crate) fn carousel() -> Tiny {
        Tiny::alphabet().chain("za")
    }

    /// A carousel whose text outlasts any test: its context takes an hour to fill.
    pub(crate) fn endless() -> Tiny {
        Tiny {
            context: 131_072,
            heads: 64,
            ..Tiny::carousel()
        }
    }

    /// A carousel that works for minutes on a prompt of 3,000 tokens.
    pub(crate) fn slow() -> Tiny {
        Tiny {
            context: 8192,
            heads: 64,
            layers: 48,
            ..Tiny::carousel()
        }
    }

    /// A carousel that works for some seconds on a prompt of 2,000 tokens.
    pub(crate) fn heavy() -> Tiny {
        Tiny {
            context: 4096,
            heads: 64,
            layers: 2,
            ..Tiny::carousel()
        }
    }

    /// A model that takes minutes to load: llama.cpp compares every tensor's name with all others.
    pub(crate) fn slow_to_load() -> Tiny {
        Tiny {
            unused_tensors: 200_000,
            ..Tiny::alphabet()
        }
    }

    /// Each byte of `text` is followed by the next one, characters of several bytes included.
    pub(crate) fn chain(mut self, text: &str) -> Tiny {
        for pair in text.as_bytes().windows(2) {
            self.successors.push((pair[0], pair[1], CHOSEN));
        }
        self
    }

    /// After `byte` comes `next`, which need not be part of any character.
    pub(crate) fn follow(self, byte: u8, next: u8) -> Tiny {
        self.weigh(byte, next, CHOSEN)
    }

    /// After `byte` may come `next`: its logit is seventeen times this weight.
    pub(crate) fn weigh(mut self, byte: u8, next: u8, weight: f32) -> Tiny {
        self.successors.push((byte, next, weight));
        self
    }

    /// After `byte`, each of `successors` is as likely as the others.
    pub(crate) fn choice(self, byte: u8, successors: &str) -> Tiny {
        successors
            .bytes()
            .fold(self, |model, next| model.follow(byte, next))
    }

    /// Once `byte` was in the text, every further byte is `answer`.
    pub(crate) fn remember(mut self, byte: u8, answer: u8) -> Tiny {
        self.remembered = Some((byte, answer));
        self
    }

    /// A prompt with `byte` in it gives values that are not numbers.
    pub(crate) fn poison(mut self, byte: u8) -> Tiny {
        self.poison = Some(byte);
        self
    }

    /// The most tokens that the model takes.
    pub(crate) fn context(self, context: u32) -> Tiny {
        Tiny { context, ..self }
    }

    /// The architecture, if not llama's.
    pub(crate) fn architecture(self, architecture: Architecture) -> Tiny {
        let layers = if architecture == Architecture::SlidingWindow {
            6
        } else {
            1
        };
        Tiny {
            architecture,
            layers,
            ..self
        }
    }

    /// A vocabulary that puts a space before every text, as those of Llama 2 and Mistral do.
    pub(crate) fn space_prefix(self) -> Tiny {
        Tiny {
            space_prefix: true,
            ..self
        }
    }

    /// A vocabulary that wants `</s>` behind every text.
    pub(crate) fn add_eos(self) -> Tiny {
        Tiny {
            add_eos: true,
            ..self
        }
    }

    /// What the model says about how the embeddings of a text's tokens become one.
    pub(crate) fn pooling(self, pooling: Pooling) -> Tiny {
        Tiny {
            pooling: Some(pooling),
            ..self
        }
    }

    /// More special tokens, numbered from 260 on. After one of them the text ends.
    pub(crate) fn special(mut self, texts: &[&str]) -> Tiny {
        self.extra.extend(texts.iter().map(|text| Extra {
            text: text.as_bytes().to_vec(),
            kind: 3,
            after: None,
        }));
        self
    }

    /// After `byte` comes a token of several bytes, which need not be whole characters, and after
    /// that the end.
    pub(crate) fn token(mut self, byte: u8, bytes: &[u8]) -> Tiny {
        self.extra.push(Extra {
            text: bytes.to_vec(),
            kind: 1,
            after: Some(byte),
        });
        self
    }

    /// The same with a last norm that is not a number.
    pub(crate) fn not_a_number(self) -> Tiny {
        Tiny {
            numbers: false,
            ..self
        }
    }

    /// Writes the model and gives its path back.
    pub(crate) fn write(&self, path: PathBuf) -> PathBuf {
        self.file().write(&path);
        path
    }

    /// Writes the model in two parts, `NAME-00001-of-00002.gguf` and the other, and gives their
    /// paths back. The first has the embeddings, so that the second decides what follows what.
    pub(crate) fn write_split(&self, name: &Path) -> [PathBuf; 2] {
        let name = name.display();
        let paths = [1, 2].map(|part| PathBuf::from(format!("{name}-0000{part}-of-00002.gguf")));
        for (part, path) in self.file().split(1).iter().zip(&paths) {
            part.write(path);
        }
        paths
    }

    /// Writes the model as llama.cpp's loader wants it.
    fn file(&self) -> Gguf {
        let mut file = Gguf::default();
        self.describe(&mut file);
        self.describe_vocabulary(&mut file);
        file.add(self.embeddings());
        file.add(self.output());
        let last = if self.numbers { 1.0 } else { f32::NAN };
        file.add(Tensor::filled("output_norm.weight", EMBEDDING, last));
        for layer in 0..self.layers {
            match self.architecture {
                Architecture::Recurrent => self.add_recurrent_layer(&mut file, layer),
                _ => self.add_attention_layer(&mut file, layer),
            }
        }
        for number in 0..self.unused_tensors {
            file.add(Tensor::zeros(format!("unused.{number}"), &[1], Kind::F32));
        }
        file
    }

    /// The sizes of the model.
    fn describe(&self, file: &mut Gguf) {
        let name = match self.architecture {
            Architecture::Llama => "llama",
            Architecture::SlidingWindow => "gemma3",
            Architecture::Recurrent => "mamba",
        };
        let mut number = |key: &str, value| file.set(format!("{name}.{key}"), Value::U32(value));
        number("context_length", self.context);
        number("embedding_length", EMBEDDING as u32);
        number("block_count", self.layers);
        number("feed_forward_length", FEED_FORWARD as u32);
        number("attention.head_count", self.heads as u32);
        number("attention.head_count_kv", 1);
        number("attention.key_length", HEAD as u32);
        number("attention.value_length", HEAD as u32);
        number("rope.dimension_count", HEAD as u32);
        if let Some(pooling) = self.pooling {
            number("pooling_type", pooling as u32);
        }
        match self.architecture {
            Architecture::Llama => {}
            Architecture::SlidingWindow => number("attention.sliding_window", 16),
            Architecture::Recurrent => {
                number("ssm.conv_kernel", CONVOLUTION as u32);
                number("ssm.inner_size", INNER as u32);
                number("ssm.state_size", STATE as u32);
                number("ssm.time_step_rank", RANK as u32);
            }
        }
        file.set(
            format!("{name}.attention.layer_norm_rms_epsilon"),
            Value::F32(1e-6),
        );
        file.set("general.architecture", Value::Text(name.into()));
        file.set("general.name", Value::Text("tiny".into()));
    }

    /// The tokens: a SentencePiece vocabulary in which no two bytes ever merge.
    fn describe_vocabulary(&self, file: &mut Gguf) {
        let mut tokens: Vec<Vec<u8>> = ["<unk>", "<s>", "</s>"].map(Vec::from).into();
        tokens.extend((0..=255).map(|byte: u8| format!("<0x{byte:02X}>").into()));
        tokens.push("\u{2581}".into());
        tokens.extend(self.extra.iter().map(|extra| extra.text.clone()));
        // llama.cpp's token types: 2 unknown, 3 control, 6 byte, 1 normal.
        let mut types = vec![2, 3, 3];
        types.extend([6; 256]);
        types.push(1);
        types.extend(self.extra.iter().map(|extra| extra.kind));
        file.set("tokenizer.ggml.model", Value::Text("llama".into()));
        file.set(
            "tokenizer.ggml.scores",
            Value::F32s(vec![0.0; tokens.len()]),
        );
        file.set("tokenizer.ggml.tokens", Value::Bytes(tokens));
        file.set("tokenizer.ggml.token_type", Value::I32s(types));
        file.set("tokenizer.ggml.bos_token_id", Value::U32(1));
        file.set("tokenizer.ggml.eos_token_id", Value::U32(END as u32));
        file.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
        if self.add_eos {
            file.set("tokenizer.ggml.add_eos_token", Value::Bool(true));
        }
        file.set(
            "tokenizer.ggml.add_space_prefix",
            Value::Bool(self.space_prefix),
        );
    }

    /// One-hot embeddings; both ways to write a space have the same.
    fn embeddings(&self) -> Tensor {
        let rows = VOCABULARY + self.extra.len() as u64;
        let mut tensor = Tensor::zeros("token_embd.weight", &[EMBEDDING, rows], Kind::F32);
        for at in 0..self.extra.len() as u64 {
            tensor.set(VOCABULARY + at, EXTRA + at, 1.0);
        }
        for token in 0..VOCABULARY {
            let place = if token == SPACE {
                token_of(b' ')
            } else {
                token
            };
            tensor.set(token, place, 1.0);
        }
        if let Some(byte) = self.poison {
            tensor.set(token_of(byte), 0, f32::NAN);
        }
        tensor
    }

    /// The row of a token weighs the bytes after which it comes.
    fn output(&self) -> Tensor {
        let rows = VOCABULARY + self.extra.len() as u64;
        let mut tensor = Tensor::zeros("output.weight", &[EMBEDDING, rows], Kind::F32);
        for (at, extra) in (0..).zip(&self.extra) {
            tensor.set(END, EXTRA + at, CHOSEN);
            if let Some(byte) = extra.after {
                tensor.set(VOCABULARY + at, token_of(byte), CHOSEN);
            }
        }
        for &(byte, next, weight) in &self.successors {
            tensor.set(token_of(next), token_of(byte), weight);
        }
        for place in 0..SEEN {
            let follows = self.successors.iter().map(|&(byte, ..)| byte);
            let mut follows = follows.chain(self.extra.iter().filter_map(|extra| extra.after));
            if !follows.any(|byte| token_of(byte) == place) {
                tensor.set(END, place, CHOSEN);
            }
        }
        if let Some((_, answer)) = self.remembered {
            tensor.set(token_of(answer), SEEN, REMEMBERED);
        }
        tensor
    }
}

/// The token of a byte.
fn token_of(byte: u8) -> u64 {
    BYTE_TOKENS + u64::from(byte)
}

/// Copies a model's file, so that a test may change it.
pub(crate) fn copy(model: &Path, to: PathBuf) -> PathBuf {
    std::fs::copy(model, &to).expect("a model can be copied");
    to
}
