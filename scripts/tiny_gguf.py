"""Writes a language model with random weights: every byte is a token. What it says has no sense, but it is exact.

    python scripts/tiny_gguf.py tiny.gguf
"""

import random
import struct
import sys
from pathlib import Path

CONTEXT, DIM, FFN, LAYERS, HEADS, VOCAB = 512, 64, 128, 2, 2, 258
TEMPLATE = (
    "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}\n"
    'Answer <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>{% endif %}'
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>{% endfor %}<|im_start|>assistant\n"
)


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


def array(key, kind, values):
    return entry(key, 9, struct.pack("<IQ", kind, len(values)) + b"".join(values))


def tokens():
    """The characters that stand for bytes in byte-level vocabularies, and two that begin and end messages."""
    others = 256
    for byte in range(256):
        plain = 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255
        yield chr(byte if plain else others)
        others += not plain
    yield "<|im_start|>"
    yield "<|im_end|>"


def metadata():
    numbers = {
        "embedding_length": DIM,
        "feed_forward_length": FFN,
        "block_count": LAYERS,
        "attention.head_count": HEADS,
        "attention.head_count_kv": 1,
        "context_length": CONTEXT,
    }
    yield entry("general.architecture", 8, text("llama"))
    for key, value in numbers.items():
        yield entry(f"llama.{key}", 4, struct.pack("<I", value))
    yield entry("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5))
    yield entry("tokenizer.ggml.model", 8, text("gpt2"))
    yield entry("tokenizer.ggml.pre", 8, text("gpt-2"))
    yield array("tokenizer.ggml.tokens", 8, [text(token) for token in tokens()])
    yield array("tokenizer.ggml.token_type", 5, [struct.pack("<i", 1 if i < 256 else 3) for i in range(VOCAB)])
    yield array("tokenizer.ggml.merges", 8, [])
    yield entry("tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 257))
    yield entry("tokenizer.chat_template", 8, text(TEMPLATE))


def tensors():
    """Names and shapes, outermost dimension first."""
    yield "token_embd", (VOCAB, DIM)
    yield "output", (VOCAB, DIM)
    yield "output_norm", (DIM,)
    for layer in range(LAYERS):
        for part, shape in {
            "attn_norm": (DIM,),
            "ffn_norm": (DIM,),
            "attn_q": (DIM, DIM),
            "attn_k": (DIM // HEADS, DIM),
            "attn_v": (DIM // HEADS, DIM),
            "attn_output": (DIM, DIM),
            "ffn_gate": (FFN, DIM),
            "ffn_up": (FFN, DIM),
            "ffn_down": (DIM, FFN),
        }.items():
            yield f"blk.{layer}.{part}", shape


def gguf(seed=1):
    draw = random.Random(seed)
    entries, infos, data = list(metadata()), [], b""
    for name, shape in tensors():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        sizes = b"".join(struct.pack("<Q", size) for size in reversed(shape))
        infos.append(text(f"{name}.weight") + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", 0, len(data)))
        scale = 1.5 if "norm" in name else 0.3
        data += struct.pack(f"<{count}f", *(draw.uniform(-scale, scale) for _ in range(count)))
        data += bytes(-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(entries)) + b"".join(entries) + b"".join(infos)
    return head + bytes(-len(head) % 32) + data


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(gguf())
