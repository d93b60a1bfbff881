"""A language model that fits into a test: a llama of one layer with weights at random, as a file of llama.cpp (GGUF).

    python3 tiny_gguf.py FILE        (nothing but the standard library)

What it answers is noise without an end, but it is worked out as any model's answer is.
"""

from __future__ import annotations

import random
import struct
import sys
from array import array
from pathlib import Path

WIDTH, HEADS, INNER, CONTEXT = 32, 2, 64, 4096
SPECIAL = ("<unk>", "<s>", "</s>")
TOKENS = (*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *(f"▁{letter}" for letter in "abcdefghijklmnop"))
UNKNOWN, CONTROL, BYTE, NORMAL = 2, 3, 6, 1
KINDS = (UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * 16)
TEMPLATE = "{% for one in messages %}{{ one.role }}: {{ one.content }}\n{% endfor %}assistant:"
UINT32, INT32, FLOAT32, STRING, ARRAY = 4, 5, 6, 8, 9
ALIGNED = 32
USUAL, SMALL, ALWAYS = 0.5, 0.005, 3.0

SETTINGS: dict[str, tuple[int, object]] = {
    "general.architecture": (STRING, "llama"),
    "llama.context_length": (UINT32, CONTEXT),
    "llama.embedding_length": (UINT32, WIDTH),
    "llama.block_count": (UINT32, 1),
    "llama.feed_forward_length": (UINT32, INNER),
    "llama.attention.head_count": (UINT32, HEADS),
    "llama.attention.head_count_kv": (UINT32, HEADS),
    "llama.rope.dimension_count": (UINT32, WIDTH // HEADS),
    "llama.attention.layer_norm_rms_epsilon": (FLOAT32, 1e-5),
    "tokenizer.ggml.model": (STRING, "llama"),
    "tokenizer.ggml.tokens": (STRING, list(TOKENS)),
    "tokenizer.ggml.scores": (FLOAT32, [-float(number) for number in range(len(TOKENS))]),
    "tokenizer.ggml.token_type": (INT32, list(KINDS)),
    "tokenizer.ggml.bos_token_id": (UINT32, 1),
    "tokenizer.ggml.eos_token_id": (UINT32, 2),
    "tokenizer.ggml.unknown_token_id": (UINT32, 0),
    "tokenizer.chat_template": (STRING, TEMPLATE),
}
SHAPES = {
    "token_embd": (WIDTH, len(TOKENS)), "output": (WIDTH, len(TOKENS)), "output_norm": (WIDTH,),
    "blk.0.attn_norm": (WIDTH,), "blk.0.ffn_norm": (WIDTH,),
    "blk.0.attn_q": (WIDTH, WIDTH), "blk.0.attn_k": (WIDTH, WIDTH), "blk.0.attn_v": (WIDTH, WIDTH),
    "blk.0.attn_output": (WIDTH, WIDTH), "blk.0.ffn_gate": (WIDTH, INNER), "blk.0.ffn_up": (WIDTH, INNER),
    "blk.0.ffn_down": (INNER, WIDTH),
}  # fmt: skip


def packed(kind: int, value: object) -> bytes:
    """A value of a setting, or of a list of them."""
    if isinstance(value, str):
        return struct.pack("<Q", len(value.encode())) + value.encode()
    return struct.pack({UINT32: "<I", INT32: "<i", FLOAT32: "<f"}[kind], value)


def setting(name: str, kind: int, value: object) -> bytes:
    """A setting: its name, its kind, its value."""
    if not isinstance(value, list):
        return packed(STRING, name) + struct.pack("<I", kind) + packed(kind, value)
    head = packed(STRING, name) + struct.pack("<IIQ", ARRAY, kind, len(value))
    return head + b"".join(packed(kind, one) for one in value)


def write(path: Path) -> None:
    """Write the model to ``path``; the same one each time."""
    chance = random.Random(1)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(SHAPES), len(SETTINGS))
    head += b"".join(setting(name, kind, value) for name, (kind, value) in SETTINGS.items())
    weights = b""
    for name, shape in SHAPES.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        size = SMALL if name in ("blk.0.attn_output", "blk.0.ffn_down") else USUAL
        head += packed(STRING, f"{name}.weight") + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", 0, len(weights))  # numbers of 32 bits; where they begin
        numbers = [1.0] * count if name.endswith("norm") else [chance.gauss(0, size) for _ in range(count)]
        if name == "token_embd":
            numbers[::WIDTH] = [ALWAYS] * len(TOKENS)
        if name == "output":  # the first number of what is worked out is never small: these tokens never win
            numbers[: len(SPECIAL) * WIDTH : WIDTH] = [-100.0] * len(SPECIAL)
        weights += array("f", numbers).tobytes()
        weights += bytes(-len(weights) % ALIGNED)
    path.write_bytes(head + bytes(-len(head) % ALIGNED) + weights)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
