"""Random graphs against onnxruntime: the engine must give the same values within a tolerance, or refuse the model.

A graph is a few random operators on random shapes, dimensions of inputs fixed or symbolic. Floats must agree within
rtol 1e-3 and atol 1e-4 (the tolerance of conformance, with room for sums in another order), integers and truth values
exactly. Values near a step of an operator (rounding, comparison, an index) are avoided by drawing from a coarse grid.

Usage: fuzz.py --engine EXAMPLE [--seed N] [--count N]
Prints each finding with its seed, which alone reproduces it, and fails if there is one.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from run import NUMPY, Engine

RTOL, ATOL = 1e-3, 1e-4
NAMES = {np.dtype(t): name for name, t in NUMPY.items()}
OPSETS = (7, 9, 10, 11, 13, 15, 17, 18, 19, 20, 21, 22, 23)
UNARY = "Abs Ceil Cos Erf Exp Floor Neg Relu Round Sigmoid Sign Sin Softplus Softsign Tanh Atan Sinh Cosh Asinh HardSwish Mish"
NEWER = {
    "Erf": 9, "Sign": 9, "Sinh": 9, "Cosh": 9, "Asinh": 9, "Round": 11, "HardSwish": 14, "Mish": 18, "Mod": 10, "Where": 9,
    "LayerNormalization": 17, "CumSum": 11, "GatherElements": 11, "ScatterElements": 11, "TopK": 11, "Resize": 13, "Trilu": 14,
    "Einsum": 12, "GridSample": 16, "Celu": 12, "ThresholdedRelu": 10, "Shrink": 9, "Expand": 8, "QuantizeLinear": 13,
    "DynamicQuantizeLinear": 11, "MatMulInteger": 10, "NonZero": 9, "GRU": 7, "LSTM": 7, "ReverseSequence": 10, "Gelu": 20,
    "Hardmax": 13, "BitShift": 11, "Unique": 11, "Compress": 9,
}  # fmt: skip


class Draw:
    """A graph under construction: values by name with their array (for shapes and types)."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.choice(OPSETS))
        self.nodes, self.weights, self.inputs, self.values = [], [], {}, {}

    def pick(self, options):
        return options[int(self.rng.integers(len(options)))]

    def size(self):
        return int(self.rng.choice([1, 2, 3, 4, 5, 7, 9, 17]))

    def floats(self, *shape):
        """Multiples of 1/8 from −2 to 2, moved by a hair: never on a step."""
        return ((self.rng.integers(-16, 17, shape) / 8) + 0.013).astype(np.float32)

    def feed(self, array):
        name = f"x{len(self.inputs)}"
        self.inputs[name] = self.values[name] = array
        return name

    def weight(self, array):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, op, inputs, outputs=1, **attributes):
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names


def axis(d, x):
    rank = d.values[x].ndim
    return int(d.rng.integers(-rank, rank))


def elementwise(d, x):
    op = d.pick(UNARY.split())
    return d.add(op, [x]) if NEWER.get(op, 0) <= d.opset else d.add("Tanh", [x])


def parametric(d, x):
    op = d.pick(["Elu", "LeakyRelu", "HardSigmoid", "Selu", "Celu", "ThresholdedRelu", "Shrink", "Gelu"])
    if NEWER.get(op, 0) > d.opset:
        op = "Elu"
    return d.add(op, [x])


def binary(d, x):
    shape = list(d.values[x].shape)
    shape = [1 if d.rng.random() < 0.3 else n for n in shape[int(d.rng.integers(0, len(shape) + 1)) :]]
    op = d.pick(["Add", "Sub", "Mul", "Div", "Max", "Min"] if d.opset > 7 else ["Add", "Sub", "Mul", "Div"])
    other = d.floats(*shape)
    other = d.weight(other) if d.rng.random() < 0.5 else d.feed(other)
    return d.add(op, [x, other])


def matmul(d, x):
    array = d.values[x]
    if array.ndim < 2:
        return None
    return d.add("MatMul", [x, d.weight(d.floats(array.shape[-1], d.size()))])


def gemm(d, x):
    array = d.values[x]
    if array.ndim != 2:
        return None
    turned = bool(d.rng.integers(2))
    n = d.size()
    b = d.floats(n, array.shape[1]) if turned else d.floats(array.shape[1], n)
    return d.add("Gemm", [x, d.weight(b), d.weight(d.floats(n))], transB=int(turned), alpha=0.5, beta=2.0)


def conv(d, x):
    array = d.values[x]
    if array.ndim not in (3, 4) or array.shape[1] > 9:
        return None
    spatial = array.ndim - 2
    group = array.shape[1] if d.rng.random() < 0.3 else 1
    kernel = [int(d.rng.integers(1, 4)) for _ in range(spatial)]
    strides = [int(d.rng.integers(1, 3)) for _ in range(spatial)]
    dilations = [int(d.rng.integers(1, 3)) for _ in range(spatial)]
    pads = [int(d.rng.integers(0, 3)) for _ in range(2 * spatial)]
    for i in range(spatial):
        if (kernel[i] - 1) * dilations[i] + 1 > array.shape[2 + i] + pads[i] + pads[spatial + i]:
            return None
    out = group * int(d.rng.integers(1, 4))
    if d.rng.random() < 0.25:
        weights = d.floats(array.shape[1], out // group, *kernel)
        pads = [min(p, k - 1) for p, k in zip(pads, kernel * 2)]
        return d.add(
            "ConvTranspose",
            [x, d.weight(weights), d.weight(d.floats(out))],
            group=group,
            strides=strides,
            dilations=dilations,
            pads=[min(p, 1) if min(kernel) > 1 else 0 for p in pads],
        )
    weights = d.floats(out, array.shape[1] // group, *kernel)
    return d.add(
        "Conv",
        [x, d.weight(weights), d.weight(d.floats(out))],
        group=group,
        strides=strides,
        dilations=dilations,
        pads=pads,
        kernel_shape=kernel,
    )


def pool(d, x):
    array = d.values[x]
    if array.ndim not in (3, 4):
        return None
    spatial = array.ndim - 2
    kernel = [min(int(d.rng.integers(1, 4)), array.shape[2 + i]) for i in range(spatial)]
    attributes = {"kernel_shape": kernel, "strides": [int(d.rng.integers(1, 3)) for _ in range(spatial)]}
    attributes["pads"] = [int(d.rng.integers(0, k)) for k in kernel * 2]
    op = d.pick(["MaxPool", "AveragePool", "LpPool"])
    if op == "AveragePool":
        attributes["count_include_pad"] = int(d.rng.integers(2))
    return d.add(op, [x], **attributes)


def reduction(d, x):
    op = d.pick(
        "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp".split()
    )
    rank = d.values[x].ndim
    axes = sorted(d.rng.choice(rank, int(d.rng.integers(1, rank + 1)), replace=False).tolist())
    keep = int(d.rng.integers(2))
    if d.opset >= (13 if op == "ReduceSum" else 18):
        axes = np.array(axes, np.int64)
        return d.add(op, [x, d.weight(axes) if d.rng.random() < 0.5 else d.feed(axes)], keepdims=keep)
    return d.add(op, [x], axes=axes, keepdims=keep)


def softmax(d, x):
    op = d.pick(["Softmax", "LogSoftmax", "Hardmax"])
    if d.opset < 13:
        return d.add("Softmax", [x], axis=int(d.rng.integers(0, d.values[x].ndim)))
    return d.add(op, [x], axis=axis(d, x))


def layer_norm(d, x):
    if d.opset < 17:
        return None
    n = d.values[x].shape[-1]
    return d.add("LayerNormalization", [x, d.weight(d.floats(n)), d.weight(d.floats(n))], axis=-1)


def transpose(d, x):
    return d.add("Transpose", [x], perm=d.rng.permutation(d.values[x].ndim).tolist())


def reshape(d, x):
    array = d.values[x]
    shape = np.array([-1, array.shape[-1]] if d.rng.random() < 0.5 else [array.shape[0], -1], np.int64)
    return d.add("Reshape", [x, d.weight(shape) if d.rng.random() < 0.5 else d.feed(shape)])


def concat(d, x):
    along = axis(d, x)
    return d.add("Concat", [x, x, d.weight(d.floats(*d.values[x].shape))], axis=along)


def cut(d, x):
    if d.opset < 10:
        return None
    along = axis(d, x)
    n = d.values[x].shape[along]
    start, end = sorted(d.rng.integers(-n - 1, n + 2, 2).tolist())
    step = int(d.pick([1, 1, 2, -1]))
    if step < 0:
        start, end = end, start
    numbers = [np.array([v], np.int64) for v in (start, end, along, step)]
    if len(range(n)[start:end:step]) == 0:
        return None
    return d.add("Slice", [x, *(d.weight(v) for v in numbers)])


def gather(d, x):
    along = axis(d, x)
    n = d.values[x].shape[along]
    indices = d.rng.integers(0 if d.opset < 11 else -n, n, (2, 3)).astype(np.int64)
    return d.add("Gather", [x, d.weight(indices) if d.rng.random() < 0.5 else d.feed(indices)], axis=along)


def scatter(d, x):
    if d.opset < 18:
        return None
    array, along = d.values[x], axis(d, x)
    indices = d.rng.integers(0, array.shape[along], array.shape).astype(np.int64)
    how = d.pick(["add", "max", "min"])
    return d.add("ScatterElements", [x, d.feed(indices), d.feed(d.floats(*array.shape))], axis=along, reduction=how)


def pad(d, x):
    if d.opset < 11:
        return None
    array = d.values[x]
    pads = d.rng.integers(0, 3, 2 * array.ndim).astype(np.int64)
    mode = d.pick(["constant", "edge", "reflect"])
    if mode == "reflect":
        pads = np.minimum(pads, np.array(array.shape * 2) - 1)
    return d.add("Pad", [x, d.weight(pads)], mode=mode)


def top_k(d, x):
    if d.opset < 11:
        return None
    along = axis(d, x)
    k = np.array([int(d.rng.integers(1, d.values[x].shape[along] + 1))], np.int64)
    return d.add("TopK", [x, d.weight(k) if d.rng.random() < 0.5 else d.feed(k)], 2, axis=along)[:1]


def cumulate(d, x):
    if d.opset < 11:
        return None
    along = np.array(axis(d, x), np.int64)
    return d.add("CumSum", [x, d.weight(along)], exclusive=int(d.rng.integers(2)), reverse=int(d.rng.integers(2)))


def resize(d, x):
    array = d.values[x]
    if d.opset < 13 or array.ndim != 4:
        return None
    sizes = np.array([*array.shape[:2], *(int(d.rng.integers(2, 12)) for _ in range(2))], np.int64)
    mode = d.pick(["nearest", "linear", "cubic"])
    how = d.pick(["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
    attributes = {"nearest_mode": "floor"} if mode == "nearest" else {}
    return d.add("Resize", [x, "", "", d.weight(sizes)], mode=mode, coordinate_transformation_mode=how, **attributes)


def choose(d, x):
    if d.opset < 9:
        return None
    array = d.values[x]
    (above,) = d.add("Greater", [x, d.weight(np.float32(0.4))])
    return d.add("Where", [above, x, d.weight(d.floats(array.shape[-1]))])


def quantise(d, x):
    if d.opset < 13:
        return None
    array, scale = d.values[x], np.float32(0.11)
    zero = np.array(d.rng.integers(0, 200), np.uint8)
    (q,) = d.add("QuantizeLinear", [x, d.weight(scale), d.weight(zero)])
    if array.ndim == 2 and d.rng.random() < 0.5:
        b = d.rng.integers(-100, 100, (array.shape[1], d.size())).astype(np.int8)
        (y,) = d.add("MatMulInteger", [q, d.weight(b), d.weight(zero), d.weight(np.int8(3))])
        return d.add("Cast", [y], to=TensorProto.FLOAT)
    return d.add("DequantizeLinear", [q, d.weight(scale), d.weight(zero)])


def recurrent(d, x):
    array = d.values[x]
    if array.ndim != 3 or d.opset < 14:
        return None
    op, gates = d.pick([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    hidden, both = d.size(), bool(d.rng.integers(2))
    count = 2 if both else 1
    weights = [d.floats(count, gates * hidden, n) for n in (array.shape[2], hidden)] + [
        d.floats(count, 2 * gates * hidden)
    ]
    attributes = {"hidden_size": hidden, "direction": "bidirectional" if both else d.pick(["forward", "reverse"])}
    if op == "GRU":
        attributes["linear_before_reset"] = int(d.rng.integers(2))
    return d.add(op, [x, *(d.weight(w * np.float32(0.3)) for w in weights)], 2, **attributes)[:1]


def conditional(d, x):
    if d.opset < 13:
        return None
    array = d.values[x]
    branches = []
    for name, op in (("then", "Tanh"), ("else", "Abs")):
        y = helper.make_tensor_value_info(f"{name}_{len(d.nodes)}", TensorProto.FLOAT, None)
        branches.append(helper.make_graph([helper.make_node(op, [x], [y.name])], name, [], [y]))
    condition = d.feed(np.array(bool(d.rng.integers(2))))
    del array
    return d.add("If", [condition], then_branch=branches[0], else_branch=branches[1])


STEPS = [
    elementwise, elementwise, parametric, binary, binary, matmul, gemm, conv, conv, pool, reduction, softmax, layer_norm, transpose,
    reshape, concat, cut, gather, scatter, pad, top_k, cumulate, resize, choose, quantise, recurrent, conditional,
]  # fmt: skip


def build(seed):
    """A model and its inputs, with what onnxruntime makes of them; None where it does not run."""
    d = Draw(seed)
    rank = int(d.rng.choice([2, 2, 3, 4, 4]))
    x = d.feed(d.floats(*(d.size() for _ in range(rank))))
    expected = None
    for _ in range(int(d.rng.integers(1, 6))):
        before = (len(d.nodes), len(d.weights), dict(d.inputs), dict(d.values))
        names = d.pick(STEPS)(d, x)
        if names is None:
            continue
        model = model_of(d, names[0])
        found = run_ort(model, d.inputs)
        if found is None or not np.isfinite(found).all() or found.size > 20_000 or np.abs(found).max(initial=0) > 1e4:
            del d.nodes[before[0] :], d.weights[before[1] :]
            d.inputs, d.values = before[2], before[3]
            continue
        x, expected = names[0], found
        d.values[x] = found
        if found.ndim == 0 or found.size == 0:
            break
    return (None, None, None) if expected is None else (model_of(d, x), d.inputs, expected)


def model_of(d, output):
    symbolic = np.random.default_rng(len(d.nodes)).random() < 0.5
    inputs = []
    for name, array in d.inputs.items():
        # A first dimension that each run chooses, as exported models have; index lists keep theirs.
        dims = [f"{name}_n", *array.shape[1:]] if symbolic and array.ndim > 1 and name == "x0" else list(array.shape)
        inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), dims))
    y = onnx.ValueInfoProto(name=output)
    y.type.tensor_type.elem_type = TensorProto.FLOAT
    graph = helper.make_graph(d.nodes, "fuzz", inputs, [y], d.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", d.opset)], ir_version=8)


def run_ort(model, inputs):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})[0]
    except Exception:  # What onnxruntime does not run says nothing about the engine.
        return None


def check(engine, model, inputs, expected, work):
    (work / "model.onnx").write_bytes(model.SerializeToString())
    files = []
    for i in model.graph.input:
        array = inputs[i.name]
        file = work / i.name
        file.write_bytes(array.tobytes())
        files.append({"name": i.name, "datatype": NAMES[array.dtype], "shape": list(array.shape), "file": str(file)})
    answer = engine.run({"model": str(work / "model.onnx"), "inputs": files, "outputs": str(work)})
    if "refused" in answer:
        return "refused", answer["refused"]
    if "failed" in answer:
        return "wrong", answer["failed"]
    (found,) = answer["outputs"]
    if list(found["shape"]) != list(expected.shape) or found["datatype"] != NAMES[expected.dtype]:
        return "wrong", f"{found['datatype']}{found['shape']}, onnxruntime gives {expected.dtype}{list(expected.shape)}"
    values = np.frombuffer(Path(found["file"]).read_bytes(), expected.dtype).reshape(expected.shape)
    bad = ~np.isclose(values, expected, rtol=RTOL, atol=ATOL, equal_nan=True)
    if bad.any():
        at = tuple(np.argwhere(bad)[0])
        return (
            "wrong",
            f"{int(bad.sum())} of {bad.size} differ, at {at}: {values[at]}, onnxruntime gives {expected[at]}",
        )
    return "same", ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True, help="the example `conformance` of lemma-graph")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=100, help="graphs to make")
    options = parser.parse_args()
    engine, counts = Engine(options.engine), Counter()
    with tempfile.TemporaryDirectory() as work:
        for seed in range(options.seed, options.seed + options.count):
            model, inputs, expected = build(seed)
            if model is None:
                counts["empty"] += 1
                continue
            result, reason = check(engine, model, inputs, expected, Path(work))
            counts[result] += 1
            if result != "same":
                ops = " ".join(n.op_type for n in model.graph.node)
                print(f"{result}: seed {seed}, opset {model.opset_import[0].version}: {ops}: {reason}")
    print(f"seeds {options.seed} to {options.seed + options.count - 1}: {dict(counts)}")
    return bool(counts["wrong"])


if __name__ == "__main__":
    sys.exit(main())
