#!/usr/bin/env python3
"""Writes a GGUF of random weights with the shape of TinyLlama 1.1B.

    tests/bench/random-model.py q4_0|q4_k|q8_0 OUT.gguf

22 layers of 2,048, 32 heads, 4 of them for keys and values, a feed-forward of
5,632 and a vocabulary of 32,000, as a model of 1.1 billion parameters really
has them: what such a model costs in time and memory can be measured with it,
what it says makes no sense. The types of the tensors are those that
llama-quantize gives to Q4_0, Q4_K_M and Q8_0. The vocabulary is made up: bytes,
letters and what two to four of them make. The same call writes the same file.
Needs nothing but Python; takes seconds, little memory, and 0.6 to 1.2 GB of disk.
"""

import itertools
import random
import string
import struct
import sys

LAYERS, WIDTH, HEADS, KV_HEADS, INNER = 22, 2048, 32, 4, 5632
# The real one was trained with 2,048 tokens; the rows of the table go further.
CONTEXT = 4096
VOCABULARY = 32000
ALIGNMENT = 32
# Bytes and weights of a block, and ggml's number, of each type.
TYPES = {"f32": (4, 1, 0), "q4_0": (18, 32, 2), "q8_0": (34, 32, 8), "q4_k": (144, 256, 12), "q6_k": (210, 256, 14)}
FILE_TYPES = {"q4_0": 2, "q8_0": 7, "q4_k": 15}
# The standard deviation of the weights, which is usual for this width.
SPREAD = 0.02


def half(value):
    return struct.pack("<e", value)


def block(name, chance):
    """A block of weights around 0."""
    if name == "q4_0":  # 16 steps from -8
        return half(SPREAD / 4.6) + chance.randbytes(16)
    if name == "q8_0":
        return half(SPREAD / 74) + chance.randbytes(32)
    if name == "q4_k":  # 6-bit scales and minima, on the average 31.5, of 16 steps from 0
        step = SPREAD / 31.5 / 4.6
        return half(step) + half(step * 7.5) + chance.randbytes(140)
    # q6_k: 64 steps from -32, signed 8-bit scales, on the average 74 beside their sign
    return chance.randbytes(208) + half(SPREAD / 74 / 18.5)


class Weights:
    """Blocks of one type, out of a store of some that is gone through again and again."""

    def __init__(self, name):
        chance = random.Random(name)
        self.store = b"".join(block(name, chance) for _ in range(10007))
        self.at = 0

    def write(self, out, size):
        while size:
            part = self.store[self.at:self.at + size]
            out.write(part)
            size -= len(part)
            self.at = (self.at + len(part)) % len(self.store)


def pieces():
    """The texts of the vocabulary with what kind each is, as ggml numbers them."""
    yield from (("<unk>", 2), ("<s>", 3), ("</s>", 3))
    yield from ((f"<0x{byte:02X}>", 6) for byte in range(256))
    letters = "etaoinshrdlcumwfgypbvkxjqz"
    singles = "▁" + letters + string.ascii_uppercase + string.digits + string.punctuation
    for piece in singles:
        yield piece, 1
    for length in (2, 3, 4):
        for first in "▁" + letters:
            for rest in itertools.product(letters, repeat=length - 1):
                yield first + "".join(rest), 1


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def metadata(name):
    """The file's key-value pairs, each as bytes."""
    words = list(itertools.islice(pieces(), VOCABULARY))

    def pair(key, kind, value):
        return text(key) + struct.pack("<I", kind) + value

    def number(key, value):
        return pair(key, 4, struct.pack("<I", value))

    def array(key, kind, values):
        return pair(key, 9, struct.pack("<IQ", kind, len(values)) + b"".join(values))

    yield pair("general.architecture", 8, text("llama"))
    yield pair("general.name", 8, text("random weights, shape of TinyLlama 1.1B"))
    yield number("general.file_type", FILE_TYPES[name])
    yield number("llama.context_length", CONTEXT)
    yield number("llama.embedding_length", WIDTH)
    yield number("llama.block_count", LAYERS)
    yield number("llama.feed_forward_length", INNER)
    yield number("llama.attention.head_count", HEADS)
    yield number("llama.attention.head_count_kv", KV_HEADS)
    yield number("llama.rope.dimension_count", WIDTH // HEADS)
    yield pair("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5))
    yield pair("tokenizer.ggml.model", 8, text("llama"))
    yield array("tokenizer.ggml.tokens", 8, [text(word) for word, _ in words])
    yield array("tokenizer.ggml.scores", 6, [struct.pack("<f", -rank) for rank in range(len(words))])
    yield array("tokenizer.ggml.token_type", 5, [struct.pack("<i", kind) for _, kind in words])
    for key, value in (("unknown", 0), ("bos", 1), ("eos", 2)):
        yield number(f"tokenizer.ggml.{key}_token_id", value)


def more_bits(layer):
    """Whether llama-quantize takes six bits for values and the way down in this layer."""
    eighth = LAYERS // 8
    return layer < eighth or layer >= 7 * LAYERS // 8 or (layer - eighth) % 3 == 2


def tensors(name):
    """Name, extents and type of each tensor."""
    values = WIDTH // HEADS * KV_HEADS
    yield "token_embd.weight", (WIDTH, VOCABULARY), name
    for layer in range(LAYERS):
        better = "q6_k" if name == "q4_k" and more_bits(layer) else name
        yield from ((f"blk.{layer}.{part}.weight", extents, kind) for part, extents, kind in (
            ("attn_norm", (WIDTH,), "f32"),
            ("attn_q", (WIDTH, WIDTH), name),
            ("attn_k", (WIDTH, values), name),
            ("attn_v", (WIDTH, values), better),
            ("attn_output", (WIDTH, WIDTH), name),
            ("ffn_norm", (WIDTH,), "f32"),
            ("ffn_gate", (WIDTH, INNER), name),
            ("ffn_up", (WIDTH, INNER), name),
            ("ffn_down", (INNER, WIDTH), better),
        ))
    yield "output_norm.weight", (WIDTH,), "f32"
    yield "output.weight", (WIDTH, VOCABULARY), "q8_0" if name == "q8_0" else "q6_k"


def write(name, out):
    pairs, listed = list(metadata(name)), list(tensors(name))
    out.write(b"GGUF" + struct.pack("<IQQ", 3, len(listed), len(pairs)) + b"".join(pairs))
    offset, sizes = 0, []
    for tensor, extents, kind in listed:
        length, weights, number = TYPES[kind]
        size = extents[0] * (extents[1] if len(extents) > 1 else 1) // weights * length
        out.write(text(tensor) + struct.pack("<I", len(extents)) + struct.pack(f"<{len(extents)}Q", *extents))
        out.write(struct.pack("<IQ", number, offset))
        sizes.append(size)
        offset += -(-size // ALIGNMENT) * ALIGNMENT
    out.write(bytes(-out.tell() % ALIGNMENT))
    stores = {}
    for (_, _, kind), size in zip(listed, sizes):
        if kind == "f32":
            out.write(struct.pack("<f", 1) * (size // 4))
        else:
            stores.setdefault(kind, Weights(kind)).write(out, size)
        out.write(bytes(-size % ALIGNMENT))


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in FILE_TYPES:
        sys.exit(__doc__)
    with open(sys.argv[2], "wb") as out:
        write(sys.argv[1], out)


if __name__ == "__main__":
    main()
