"""Writes tiny models whose text is known before they are run, in GGUF.

The vocabulary is the 256 bytes. The embedding of a byte is one-hot, the layer
adds nothing, and the output matrix gives each letter the next one of the
alphabet, and after `z` again `a`. Once an `X` was in the text, every further
byte is a `Z`: one attention head carries it to all later positions, so that an
answer shows what the cache of the model holds. tests/harness/tiny.rs writes
such models for the tests in Rust, and says more.

As a program, `tiny.py OUT.gguf [CONTEXT]` writes one.
"""

import struct
import sys

BYTES_AT = 3  # after <unk>, <s> and </s>
END = 2
SPACE = BYTES_AT + 256
VOCABULARY = SPACE + 1
SEEN = VOCABULARY  # the place of an embedding that says that an X was seen
EMBEDDING = 288
HEAD = 32
FEED_FORWARD = 32
ALIGNMENT = 32
CHOSEN, REMEMBERED = 2.0, 200.0
ALPHABET = b"abcdefghijklmnopqrstuvwxyz"


def token(byte):
    return BYTES_AT + byte


def zeros(rows, columns):
    return [[0.0] * columns for _ in range(rows)]


def embeddings():
    matrix = zeros(VOCABULARY, EMBEDDING)
    for row in range(VOCABULARY):
        matrix[row][token(0x20) if row == SPACE else row] = 1.0
    return matrix


def output():
    matrix = zeros(VOCABULARY, EMBEDDING)
    for byte, following in zip(ALPHABET, ALPHABET[1:] + ALPHABET[:1]):
        matrix[token(following)][token(byte)] = CHOSEN
    letters = {token(byte) for byte in ALPHABET}
    for place in range(SEEN):
        if place not in letters:
            matrix[END][place] = CHOSEN
    matrix[token(ord("Z"))][SEEN] = REMEMBERED
    return matrix


def tensors():
    """The name and the rows of each tensor."""
    ones = [[1.0] * EMBEDDING]
    values = zeros(HEAD, EMBEDDING)
    values[0][token(ord("X"))] = 10.0
    back = zeros(EMBEDDING, HEAD)
    back[SEEN][0] = 1.0
    return {
        "token_embd": embeddings(),
        "output": output(),
        "output_norm": ones,
        "blk.0.attn_norm": ones,
        "blk.0.ffn_norm": ones,
        "blk.0.attn_q": zeros(HEAD, EMBEDDING),
        "blk.0.attn_k": zeros(HEAD, EMBEDDING),
        "blk.0.attn_v": values,
        "blk.0.attn_output": back,
        "blk.0.ffn_gate": zeros(FEED_FORWARD, EMBEDDING),
        "blk.0.ffn_up": zeros(FEED_FORWARD, EMBEDDING),
        "blk.0.ffn_down": zeros(EMBEDDING, FEED_FORWARD),
    }


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def pair(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


def array(key, kind, values):
    head = struct.pack("<IQ", kind, len(values))
    return pair(key, 9, head + b"".join(values))


def metadata(context):
    """The key-value pairs, each as bytes."""
    words = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    words.append("▁")
    types = [2, 3, 3] + [6] * 256 + [1]  # unknown, control, byte, normal
    yield pair("general.architecture", 8, text("llama"))
    yield pair("general.name", 8, text("tiny"))
    for key, value in (
        ("llama.context_length", context),
        ("llama.embedding_length", EMBEDDING),
        ("llama.block_count", 1),
        ("llama.feed_forward_length", FEED_FORWARD),
        ("llama.attention.head_count", 1),
        ("llama.attention.head_count_kv", 1),
        ("llama.attention.key_length", HEAD),
        ("llama.attention.value_length", HEAD),
        ("llama.rope.dimension_count", HEAD),
        ("tokenizer.ggml.bos_token_id", 1),
        ("tokenizer.ggml.eos_token_id", END),
    ):
        yield pair(key, 4, struct.pack("<I", value))
    epsilon = struct.pack("<f", 1e-6)
    yield pair("llama.attention.layer_norm_rms_epsilon", 6, epsilon)
    yield pair("tokenizer.ggml.model", 8, text("llama"))
    yield array("tokenizer.ggml.tokens", 8, [text(word) for word in words])
    yield array("tokenizer.ggml.scores", 6, [struct.pack("<f", 0)] * len(words))
    types = [struct.pack("<i", kind) for kind in types]
    yield array("tokenizer.ggml.token_type", 5, types)
    yield pair("tokenizer.ggml.add_bos_token", 7, b"\1")
    yield pair("tokenizer.ggml.add_space_prefix", 7, b"\0")


def write(path, context=512):
    """Writes the model, with a context of so many tokens."""
    pairs, listed = list(metadata(context)), tensors()
    head = b"GGUF" + struct.pack("<IQQ", 3, len(listed), len(pairs)) + b"".join(pairs)
    data = b""
    for name, rows in listed.items():
        extents = [len(rows[0])] + ([len(rows)] if len(rows) > 1 else [])
        head += text(f"{name}.weight") + struct.pack("<I", len(extents))
        head += struct.pack(f"<{len(extents)}QIQ", *extents, 0, len(data))
        data += b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows)
    with open(path, "wb") as out:
        out.write(head + bytes(-len(head) % ALIGNMENT) + data)
    return path


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    write(sys.argv[1], *map(int, sys.argv[2:]))
