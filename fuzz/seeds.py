"""Writes the seeds of the fuzz targets from the golden vectors. Run it after a vector was added: `python3 fuzz/seeds.py`."""

import itertools
import json
import math
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TYPES = ROOT / "crates/types/tests/vectors"
VERIFY = ROOT / "crates/verify/tests/vectors"
ONNX = ROOT / "crates/graph/tests/data"
MODELS = ROOT / "models"
LLM = ROOT / "crates/llm/tests/fixtures"

OPERATORS = [
    "argmax_last",
    "attention_mask",
    "averagepool_same_lower",
    "batchnorm_2d",
    "cast_float_to_int64",
    "compress",
    "concat_middle",
    "constantofshape_value",
    "conv_1d_dilated_groups",
    "conv_strides",
    "convtranspose_strides",
    "einsum_ij_kj_k__i",
    "expand_both",
    "gather_negative",
    "gemm_full_c",
    "gridsample_linear_reflection",
    "gru_bidirectional",
    "if_true",
    "layernorm_two_axes",
    "loop_until",
    "lstm_bidirectional",
    "matmul_broadcast",
    "maxpool_dilations",
    "maxpool_indices",
    "nonmaxsuppression",
    "pad_negative",
    "qlinearconv",
    "quantizelinear_axis",
    "range_int64",
    "reducesum_by_data",
    "reducesum_two_axes_dropped",
    "reshape_by_data",
    "reshape_keep_and_infer",
    "resize_cubic_half_pixel",
    "scan_sums",
    "scatternd_add",
    "shape_range",
    "slice_reversed_steps",
    "softmax_middle",
    "split_opset18_uneven",
    "tile",
    "topk_by_data",
    "transpose_perm",
    "unique_sorted",
    "unsqueeze_axes",
    "where_broadcast",
]


def delta(content: dict, reason=None, **more) -> dict:
    return {"model": "m", "choices": [{"index": 0, "delta": content, "finish_reason": reason, **more}]}


SCORED = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -1.5}]}
UPSTREAM = {
    "chat": [
        delta({"role": "assistant", "content": ""}),
        delta({"content": "a"}, logprobs={"content": [SCORED]}),
        {**delta({}, "stop"), "usage": {"prompt_tokens": 3, "completion_tokens": 1}},
    ],
    "calls": [
        delta({"tool_calls": [{"index": 0, "id": "x", "function": {"name": "f", "arguments": '{"a":'}}]}),
        delta({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
        delta({"tool_calls": [{"index": 1, "function": {"name": "g", "arguments": "{}"}}]}),
        delta({}, "tool_calls"),
    ],
    "completion": [
        {"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [-1], "top_logprobs": [{"b": -2}]}}]},
        {"choices": [{"text": "", "finish_reason": "length"}]},
    ],
    "error": [delta({"content": "a"}), {"error": {"message": "overloaded"}}],
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = {
    "gguf": {"sha": COMMIT, "siblings": [{"rfilename": "m.gguf", "lfs": {"sha256": "ab" * 32, "size": 9}}]},
    "folder": {
        "sha": COMMIT,
        "cardData": {"license": "mit"},
        "siblings": [
            {"rfilename": "config.json", "size": 7, "blobId": COMMIT},
            {"rfilename": "1_Pooling/config.json", "size": 7, "blobId": COMMIT},
            {"rfilename": "model.safetensors"},
        ],
    },
    "unsafe": {"sha": COMMIT, "siblings": [{"rfilename": name} for name in ("../a", "/a", ".a", "a/b", "a", "a", "")]},
}


def vector(folder: Path, name: str):
    return json.loads((folder / name).read_text())


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def sized(part: bytes, width: int) -> bytes:
    """The part after its length."""
    return len(part).to_bytes(width, "little") + part


# Bodies of the Open Inference Protocol after two bytes with the length of their JSON header. Each is a request and a
# response at once: both ignore what they do not know.
ALL_JSON = b"\xff\xff"
BINARY_HEADER = json.dumps(
    {
        "id": "7",
        "model_name": "m",
        "parameters": {"binary_data_output": True},
        "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}],
        "outputs": [{"name": "y", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}],
    }
).encode()
HTTP_BODIES = [
    sized(BINARY_HEADER, 2) + bytes(8),
    ALL_JSON
    + json.dumps(
        {
            "model_name": "m",
            "inputs": [{"name": "x", "shape": [2, 1], "datatype": "INT64", "data": [[1], [-2]]}],
            "outputs": [{"name": "y", "shape": [1, 2], "datatype": "BOOL", "data": [True, False]}],
        }
    ).encode(),
]

# Calls of Ethereum JSON-RPC: between them every kind of parameter.
ADDRESS, HASH = "0x" + "11" * 20, "0x" + "22" * 32
CALLS = {
    "eth_call": [{"from": ADDRESS, "to": ADDRESS, "gas": "0x5208", "value": "0x1", "data": "0x0102"}, "latest"],
    "eth_feeHistory": ["0x5", "latest", [10, 50.5]],
    "eth_getBlockByNumber": ["0x10", True],
    "eth_getLogs": [{"fromBlock": "earliest", "toBlock": "0x10", "address": [ADDRESS], "topics": [HASH, None, [HASH]]}],
    "eth_getStorageAt": [ADDRESS, "0x0", {"blockHash": HASH}],
    "eth_getTransactionByBlockHashAndIndex": [HASH, "0x0"],
    "eth_sendRawTransaction": ["0x02f870"],
    "web3_sha3": ["0x68656c6c6f"],
}


# Requests of OpenAI's clients.
OPENAI = {
    "chat": {
        "model": "a/b",
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": "Hi"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "max_completion_tokens": 12,
        "seed": -5,
        "stop": ["END", "\n"],
        "logit_bias": {"7": -100},
        "tools": [],
        "user": "me",
        "lemma": {"mode": "signed", "request_id": HASH},
    },
    "tokens": {"model": "a/b", "prompt": [[1, 2, 3]], "top_p": 0.9, "top_k": 5, "stop": "x"},
    "text": {"model": "a/b", "prompt": ["Once"], "n": 1, "best_of": 1, "echo": False},
}


def gguf_text(text: str) -> bytes:
    return sized(text.encode(), 8)


def gguf_entry(key: str, value) -> bytes:
    """An entry of a GGUF file: a text, a number, a float, or a list of texts or numbers."""
    if isinstance(value, str):
        kind, body = 8, gguf_text(value)
    elif isinstance(value, float):
        kind, body = 6, struct.pack("<f", value)
    elif isinstance(value, int):
        kind, body = 4, struct.pack("<I", value)
    else:
        kind = 9
        inner, pack = (8, gguf_text) if isinstance(value[0], str) else (5, lambda x: struct.pack("<i", x))
        body = struct.pack("<IQ", inner, len(value)) + b"".join(pack(x) for x in value)
    return gguf_text(key) + struct.pack("<I", kind) + body


def gguf(experts: int, vocabulary: str) -> bytes:
    """A language model of one layer, as small as one can be, with weights in blocks of eight bits."""
    entries = {
        "general.architecture": "llama",
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 32,
        "llama.block_count": 1,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1,
        "llama.context_length": 16,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": vocabulary,
        "tokenizer.ggml.tokens": ["a", "b", "ab", "<s>"],
        "tokenizer.ggml.token_type": [1, 1, 1, 3],
        "tokenizer.ggml.bos_token_id": 3,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }
    if experts:
        entries |= {"llama.expert_count": experts, "llama.expert_used_count": 1}
    if vocabulary == "gpt2":
        entries["tokenizer.ggml.merges"] = ["a b"]
    block = b"\x00\x20" + bytes(range(1, 33))
    shapes = {"token_embd": (4, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    shapes |= {f"blk.0.attn_{x}": (rows, 32) for x, rows in [("q", 32), ("k", 16), ("v", 16), ("output", 32)]}
    many = (experts,) if experts else ()
    shapes |= {f"blk.0.ffn_{x}{'_exps' if experts else ''}": (*many, 32, 32) for x in ("gate", "up", "down")}
    if experts:
        shapes["blk.0.ffn_gate_inp"] = (experts, 32)
    head, data = b"", b""
    for name, shape in shapes.items():
        rows = math.prod(shape) // 32
        part = block * rows if len(shape) > 1 else struct.pack("<f", 1.0) * 32
        head += gguf_text(name + ".weight") + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += struct.pack("<IQ", 8 if len(shape) > 1 else 0, len(data))
        data += part + bytes(-len(part) % 32)
    start = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(entries))
    start += b"".join(gguf_entry(key, value) for key, value in entries.items()) + head
    return start + bytes(-len(start) % 32) + data


SCHEMAS = {
    "object": {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}, "b": {"enum": ["x", None]}},
        "required": ["a"],
        "additionalProperties": False,
    },
    "parts": {
        "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}, "maxItems": 2}},
        "anyOf": [{"$ref": "#/$defs/t"}, {"type": "string", "pattern": "^[a-c]{1,3}$"}, {"type": "number"}],
    },
}
TOOLS = [
    {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}},
    {"type": "function", "function": {"name": "g"}},
]
ANSWERS = {
    "tagged": 'So: <tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>\n<tool_call>{"name": "g"}</tool_call>',
    "xml": "So: <tool_call>\n<function=f>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>",
    "bare": '{"name": "f", "parameters": {"x": 1}}; {"name": "g", "parameters": {}}',
    "listed": 'So: [TOOL_CALLS][{"name": "f", "arguments": {"x": "]"}}, {"name": "g"}]',
    "named": "[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]g[ARGS]{}",
}


def byte_level() -> bytes:
    """A byte-level vocabulary with a merge, as `tokenizer.json` has it."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    steps = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    added = {"id": 257, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [added | {"special": True}],
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": steps,
            "decoder": steps,
            "model": {"type": "BPE", "vocab": {c: i for i, c in enumerate([*letters, "he"])}, "merges": [["h", "e"]]},
        }
    ).encode()


def model_folder() -> bytes:
    """A `config.json` after its length, and a safetensors file."""
    config = json.dumps(
        {
            "model_type": "qwen3",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "vocab_size": 3,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "linear", "factor": 2.0},
        }
    ).encode()
    layer = "model.layers.0."
    shapes = {"model.embed_tokens": [3, 16], "model.norm": [16]}
    shapes |= {f"{layer}self_attn.{x}_proj": [16, 16] for x in "qkvo"}
    shapes |= {f"{layer}self_attn.{x}_norm": [16] for x in "qk"}
    shapes |= {f"{layer}mlp.{x}_proj": [16, 16] for x in ("gate", "up", "down")}
    shapes |= {f"{layer}{x}_layernorm": [16] for x in ("input", "post_attention")}
    header, data = {}, b""
    for name, shape in shapes.items():
        part = bytes([0x80, 0x3F] * math.prod(shape))
        header[name + ".weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    return sized(config, 4) + sized(json.dumps(header).encode(), 8) + data


class IntegerGraph:
    """The encoding of docs/integer-spec.md, section 8."""

    u32 = staticmethod(lambda v: v.to_bytes(4, "little"))
    i32 = staticmethod(lambda v: v.to_bytes(4, "little", signed=True))

    @classmethod
    def many(cls, items):
        return cls.u32(len(items)) + b"".join(items)

    @classmethod
    def sizes(cls, *values):
        return bytes([len(values)]) + b"".join(cls.u32(v) for v in values)

    @classmethod
    def tensor(cls, shape, top):
        return cls.sizes(*shape) + cls.i32(-top) + cls.i32(top)

    @classmethod
    def port(cls, name):
        return cls.u32(len(name)) + name.encode() + b"\0" + bytes.fromhex("0000803f")

    @staticmethod
    def unsigned(value):
        """LEB128, as short as it can be."""
        out = b""
        while value >= 0x80:
            out += bytes([value & 0x7F | 0x80])
            value >>= 7
        return out + bytes([value])

    @classmethod
    def signed(cls, value):
        return cls.unsigned(2 * value if value >= 0 else -2 * value - 1)

    @classmethod
    def pairs(cls, pairs):
        """Each as its changes from the one before."""
        changes = [(a - c, b - d) for (a, b), (c, d) in zip(pairs, [(0, 0), *pairs])]
        return cls.many([cls.signed(a) + cls.signed(b) for a, b in changes])

    @classmethod
    def table(cls, bits, entries):
        """Runs of equal entries."""
        runs = [(value, len(list(run))) for value, run in itertools.groupby(entries)]
        values = [0] + [value for value, _ in runs]
        changes = [after - before for before, after in zip(values, values[1:])]
        steps = [cls.signed(step) + cls.unsigned(length - 1) for step, (_, length) in zip(changes, runs)]
        return bytes([bits]) + b"".join(steps)

    @classmethod
    def view(cls, kind, number, *factors):
        out = bytes([kind]) + cls.u32(number) + bytes([len(factors)])
        for axes, dims, pairs in factors:
            out += bytes([len(axes), *axes, len(dims), *dims])
            out += b"\0" if pairs is None else b"\1" + cls.pairs(pairs)
        return out

    @classmethod
    def linear(cls, coefficient, view):
        return b"\0" + cls.i32(coefficient) + view

    @classmethod
    def product(cls, coefficient, contracted, left, right):
        return b"\1" + cls.i32(coefficient) + cls.sizes(*contracted) + left + right

    @classmethod
    def expression(cls, shape, *terms):
        return cls.sizes(*shape) + cls.many(terms)

    @classmethod
    def graph(cls, inputs, constants, bits, entries, label, node, offset, shift, output):
        table = cls.table(bits, entries)
        node = cls.u32(len(label)) + label.encode() + node + cls.i32(offset) + bytes([shift]) + cls.u32(0)
        return b"lemmaig\2" + b"".join(
            cls.many(part) for part in ([cls.port("x") + inputs], constants, [table], [node], [cls.port("y") + output])
        )


def integer_graphs():
    g = IntegerGraph
    rows, columns = ([0], [0], None), ([1], [1], None)
    layer = g.product(1, [3], g.view(0, 0, ([1], [0], None)), g.view(1, 0, rows, columns))
    yield "dense", g.graph(
        g.tensor([3], 100), [g.tensor([2, 3], 127)], 4, range(-8, 8), "layer", g.expression([2], layer), 2056, 8,
        g.expression([2], g.linear(1, g.view(2, 0, rows))),
    )
    windows = g.view(0, 0, ([0], [0], [(0, 0), (0, 1), (1, 2), (1, 3)]), ([1], [1], [(0, 0), (1, 2)]))
    pool = g.expression([2, 2], g.linear(2, windows), g.linear(-1, g.view(1, 1, ([], [0], [(0, 0)]))))
    mixed = g.product(3, [2], g.view(2, 0, rows, ([2], [1], None)), g.view(1, 0, ([2], [0], None), columns))
    yield "window", g.graph(
        g.tensor([4, 4], 127), [g.tensor([2, 2], 127), g.tensor([1], 9)], 3, [0, 1, 2, 3, 3, 2, 1, 0], "pool", pool,
        1000, 5, g.expression([2, 2], mixed),
    )


def seeds():
    """Target, name and content of every seed."""
    tensors = vector(TYPES, "tensors.json")
    yield "tensors", "together", unhex(tensors["together"])
    yield "tensors", "none", unhex(tensors["none"])
    for index, tensor in enumerate(tensors["tensors"]):
        yield "tensors", f"{index}", unhex(tensor["encoding"])
    for index, case in enumerate(vector(TYPES, "manifest.json")):
        yield "manifest", f"{index}", case["canonical"].encode()
    for index, case in enumerate(vector(TYPES, "header.json")):
        yield "header", f"{index}", unhex(case["header"])
        yield "extension", f"{index}", unhex(case["extension"])
    for index, case in enumerate(vector(TYPES, "amounts.json")):
        yield "amount", f"{index}", case["text"].encode()
    for index, name in enumerate(["lemma/digits", "acme/tiny-llm:q8", "a.b/c_d:1.0"]):
        yield "model_name", f"{index}", name.encode()
    bundle = vector(VERIFY, "bundle.json")
    root = vector(VERIFY, "trusted_root.json")
    yield "bundle", "golden", json.dumps(bundle, separators=(",", ":")).encode()
    unsettled = {key: value for key, value in bundle.items() if key not in ("settlement", "openings")}
    yield "bundle", "unsettled", json.dumps(unsettled).encode()
    yield "trusted_root", "golden", json.dumps(root, separators=(",", ":")).encode()
    yield "certificate", "golden", unhex(bundle["settlement"]["finalization"])
    for index, url in enumerate(["http://127.0.0.1:8402", "https://node.example/a/b%20c", "https://[::1]:1/"]):
        yield "endpoint", f"{index}", url.encode()
    receipt = vector(TYPES, "receipt.json")
    yield "signed_receipt", "typical", unhex(receipt["encoded"])
    yield "signed_receipt", "extremes", unhex(vector(TYPES, "receipt_extremes.json")["encoded"])
    few = unhex(vector(TYPES, "commitments.json")["inputs"])
    yield "work_request", "two_tensors", b"LWRQ\x01" + bytes(range(32 + 32 + 20 + 32 + 16)) + few
    answer = {
        "receipt": {"receipt": receipt["receipt"], "signature": receipt["signature"]},
        "openings": vector(TYPES, "commitments.json")["openings"],
        "engine": vector(TYPES, "engine.json")["engine"],
    }
    yield "work_answer", "two_tensors", b"LWAN" + sized(json.dumps(answer).encode(), 4) + bytes(4) + few
    yield "work_answer", "with_evidence", b"LWAN" + sized(json.dumps(answer).encode(), 4) + sized(b"proof", 4) + few
    texts = vector(TYPES, "text.json")["cases"]
    for index, case in enumerate(texts):
        yield "text_request", f"{index}", case["request"].encode()
        yield "text_response", f"{index}", case["response"].encode()
    yield "text_work", "prompt", b"LWGQ\x01" + bytes(range(32 + 32 + 20 + 32 + 16)) + texts[1]["request"].encode()
    ending = {"text": "", "finish": "length", "signed": answer}
    error = {"code": "busy", "message": "later"}
    tokens = b"\x01" + sized(bytes(range(8)), 4) + b"\x02" + sized(bytes(4) + "ä".encode(), 4)
    yield "text_frames", "answer", tokens + b"\x03" + sized(json.dumps(ending).encode(), 4)
    yield "text_frames", "error", tokens + b"\x04" + sized(json.dumps(error).encode(), 4)
    for name, events in UPSTREAM.items():
        lines = ["data: " + json.dumps(event) for event in events] + ["data: [DONE]"]
        yield "upstream_stream", name, "".join(line + "\n\n" for line in lines).encode()
    for name, listing in HUB.items():
        yield "hub_listing", name, json.dumps(listing).encode()
    for name, body in OPENAI.items():
        yield "openai_request", name, json.dumps(body).encode()
    for index, body in enumerate(HTTP_BODIES):
        yield "http_request", f"{index}", body
        yield "http_response", f"{index}", body
    calls = [{"jsonrpc": "2.0", "id": 1, "method": method, "params": params} for method, params in CALLS.items()]
    for call in calls:
        yield "json_rpc", call["method"], json.dumps(call).encode()
    yield "json_rpc", "batch", json.dumps(calls).encode()
    for name, content in [("hello", "00"), ("welcome", "01"), ("none", "0200"), ("two", "02020101" + "03020202")]:
        yield "message", name, bytes.fromhex(content)
    for model in ("digits", "iris"):
        example = (MODELS / model / "example.json").read_bytes()
        yield "http_request", model, ALL_JSON + example
        yield "tensor_file", model, example
        yield "npy", model, (MODELS / model / "example.npy").read_bytes()
        yield "oip", model, (MODELS / model / "example.json").read_bytes()
    for experts in (0, 2):
        for vocabulary in ("gpt2", "llama"):
            yield "gguf", f"{vocabulary}_{experts}_experts", gguf(experts, vocabulary)
    yield "safetensors_folder", "qwen3", model_folder()
    for name, schema in SCHEMAS.items():
        yield "answer_schema", name, json.dumps(schema).encode()
    for name, answer in ANSWERS.items():
        listed = json.dumps(TOOLS).encode()
        yield "tools", name, struct.pack("<I", len(listed)) + listed + answer.encode()
    for name in ("bert", "xlm_roberta"):
        yield "tokenizer_json", name, (LLM / name / "tokenizer.json").read_bytes()
    yield "tokenizer_json", "byte_level", byte_level()
    for name, graph in integer_graphs():
        yield "integer_graph", name, graph
    # Places in a proof, in four bytes, and what is added there; one byte cuts it.
    for name, changes in [("honest", ""), ("nothing", "0000000000"), ("two_places", "40000000010010000080"), ("cut", "07")]:
        yield "proof", name, bytes.fromhex(changes)
        yield "evidence", name, bytes.fromhex(changes)
    # The networks, an operator of each family, and a few of the models that must be refused; each is small.
    names = [f"valid/{case.name}" for case in sorted((ONNX / "valid").glob("network_*"))]
    names += [f"valid/{name}" for name in OPERATORS]
    names += [f"hostile/{name}" for name in ("graph_cycle", "initializer_huge_little_data", "growth_doubling")]
    for name in names:
        yield "onnx", name.split("/")[1], (ONNX / name / "model.onnx").read_bytes()


def main():
    for target, name, content in seeds():
        path = ROOT / "fuzz/seeds" / target / name
        if "--check" not in sys.argv[1:]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        elif not path.exists() or path.read_bytes() != content:
            sys.exit(f"{path} is not what fuzz/seeds.py writes: run it")


main()
