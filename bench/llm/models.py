"""Writes the models that are measured: random weights in the shape of Llama, one file for each format.

    python models.py FOLDER [small] [large]

`small` has 158 million parameters, `large` 1.1 billion (the shape of TinyLlama). Q8_0 and Q4_0 are quantised by the gguf
package, Q4_K by llama.cpp.
"""

import ctypes
import pathlib
import sys

import gguf
import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType as Q

SHAPES = {
    # layers, width, feed-forward width, heads, heads of keys, vocabulary
    "small": (12, 1024, 2816, 16, 8, 8192),
    "large": (22, 2048, 5632, 32, 4, 32000),
}


def tensors(shape):
    layers, dim, ffn, heads, kv_heads, vocab = shape
    kv = dim // heads * kv_heads
    yield "token_embd.weight", (vocab, dim)
    yield "output.weight", (vocab, dim)
    for i in range(layers):
        yield f"blk.{i}.attn_q.weight", (dim, dim)
        yield f"blk.{i}.attn_k.weight", (kv, dim)
        yield f"blk.{i}.attn_v.weight", (kv, dim)
        yield f"blk.{i}.attn_output.weight", (dim, dim)
        yield f"blk.{i}.ffn_gate.weight", (ffn, dim)
        yield f"blk.{i}.ffn_up.weight", (ffn, dim)
        yield f"blk.{i}.ffn_down.weight", (dim, ffn)


def write(path, shape, kind, file_type):
    layers, dim, ffn, heads, kv_heads, vocab = shape
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_context_length(2048)
    w.add_embedding_length(dim)
    w.add_block_count(layers)
    w.add_feed_forward_length(ffn)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(dim // heads)
    w.add_rope_freq_base(10000.0)
    w.add_vocab_size(vocab)
    w.add_file_type(file_type)
    w.add_tokenizer_model("llama")
    names = [b"<unk>", b"<s>", b"</s>"] + [b"<0x%02X>" % i for i in range(256)]
    w.add_token_list(names + [b"t%d" % i for i in range(vocab - len(names))])
    w.add_token_scores([0.0] * vocab)
    w.add_token_types([2, 3, 3] + [6] * 256 + [1] * (vocab - len(names)))
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    rng = np.random.default_rng(3)
    for name, size in tensors(shape):
        x = rng.standard_normal(size, dtype=np.float32) * np.float32(size[1] ** -0.5)
        w.add_tensor(name, gguf.quants.quantize(x, kind), raw_dtype=kind)
    ones = np.ones(dim, np.float32)
    for i in range(layers):
        w.add_tensor(f"blk.{i}.attn_norm.weight", ones)
        w.add_tensor(f"blk.{i}.ffn_norm.weight", ones)
    w.add_tensor("output_norm.weight", ones)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def requantise(source, target):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_S
    params.pure = True
    params.allow_requantize = True
    params.nthread = 2
    failed = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if failed:
        raise SystemExit(f"llama.cpp could not quantise {source}")


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or SHAPES:
        for suffix, kind, file_type in [("q8_0", Q.Q8_0, 7), ("q4_0", Q.Q4_0, 2)]:
            path = folder / f"{name}-{suffix}.gguf"
            if not path.exists():
                write(path, SHAPES[name], kind, file_type)
        target = folder / f"{name}-q4_k.gguf"
        if not target.exists():
            requantise(folder / f"{name}-q8_0.gguf", target)
        for path in sorted(folder.glob(f"{name}-*.gguf")):
            print(path, path.stat().st_size, flush=True)
