"""Writes the seeds of the fuzz targets from the golden vectors. Run it after a vector was added: `python3 fuzz/seeds.py`."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TYPES = ROOT / "crates/types/tests/vectors"
VERIFY = ROOT / "crates/verify/tests/vectors"
ONNX = ROOT / "crates/graph/tests/data"
MODELS = ROOT / "models"

OPERATORS = [
    "argmax_last",
    "averagepool_same_lower",
    "batchnorm_2d",
    "cast_float_to_int64",
    "concat_middle",
    "constantofshape_value",
    "conv_1d_dilated_groups",
    "conv_strides",
    "expand_both",
    "gather_negative",
    "gemm_full_c",
    "layernorm_two_axes",
    "matmul_broadcast",
    "maxpool_dilations",
    "pad_negative",
    "range_int64",
    "reducesum_two_axes_dropped",
    "reshape_keep_and_infer",
    "shape_range",
    "slice_reversed_steps",
    "softmax_middle",
    "split_opset18_uneven",
    "tile",
    "transpose_perm",
    "unsqueeze_axes",
    "where_broadcast",
]


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
        return cls.u32(len(name)) + name.encode() + bytes.fromhex("0000803f")

    @classmethod
    def view(cls, kind, number, *factors):
        out = bytes([kind]) + cls.u32(number) + bytes([len(factors)])
        for axes, dims, pairs in factors:
            out += bytes([len(axes), *axes, len(dims), *dims])
            out += b"\0" if pairs is None else b"\1" + cls.many([cls.u32(a) + cls.u32(b) for a, b in pairs])
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
        table = bytes([bits]) + b"".join(e.to_bytes(2, "little", signed=True) for e in entries)
        node = cls.u32(len(label)) + label.encode() + node + cls.i32(offset) + bytes([shift]) + cls.u32(0)
        return b"lemmaig\1" + b"".join(
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
    yield "work_answer", "two_tensors", b"LWAN" + sized(json.dumps(answer).encode(), 4) + few
    for index, body in enumerate(HTTP_BODIES):
        yield "http_request", f"{index}", body
        yield "http_response", f"{index}", body
    for name, content in [("hello", "00"), ("welcome", "01"), ("none", "0200"), ("two", "02020101" + "03020202")]:
        yield "message", name, bytes.fromhex(content)
    for model in ("digits", "iris"):
        example = (MODELS / model / "example.json").read_bytes()
        yield "http_request", model, ALL_JSON + example
        yield "tensor_file", model, example
        yield "npy", model, (MODELS / model / "example.npy").read_bytes()
        yield "oip", model, (MODELS / model / "example.json").read_bytes()
    for name, graph in integer_graphs():
        yield "integer_graph", name, graph
    # Places in a proof, in four bytes, and what is added there; one byte cuts it.
    for name, changes in [("honest", ""), ("nothing", "0000000000"), ("two_places", "40000000010010000080"), ("cut", "07")]:
        yield "proof", name, bytes.fromhex(changes)
    # The networks, an operator of each family, and a few of the models that must be refused; each is small.
    names = [f"valid/{case.name}" for case in sorted((ONNX / "valid").glob("network_*"))]
    names += [f"valid/{name}" for name in OPERATORS]
    names += [f"hostile/{name}" for name in ("graph_cycle", "initializer_huge_little_data", "growth_doubling")]
    for name in names:
        yield "onnx", name.split("/")[1], (ONNX / name / "model.onnx").read_bytes()


for target, name, content in seeds():
    path = ROOT / "fuzz/seeds" / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
