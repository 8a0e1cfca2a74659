"""Runs the backend tests of the pinned `onnx` packages against the engine and prints what passes.

A test is a model with inputs and the outputs that they must give. It *passes* if every output has the expected type and shape
and every element is the expected one: floats within rtol 1e-3 and atol 1e-5, everything else exactly. It is *refused* if the model
is not imported, with a reason that names what is not supported. Everything else is *wrong*, and not one wrong test is allowed.

Usage: run.py --engine EXAMPLE --packages FOLDER [--record | --list | --only SUBSTRING]
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

RTOL, ATOL = 1e-3, 1e-5
# Expected values of bfloat16 are truncated, where the engine rounds to the nearest: one unit of its last place.
RTOL_BF16 = 2.0**-7
HERE = Path(__file__).parent
FLOOR = HERE / "floor.json"
VERSIONS = ("1.16.2", "1.18.0")

# Tests whose expected values go against the specification: here integers wrap where it has them saturate. onnxruntime saturates.
SATURATING = {f"test_qlinearmatmul_{rank}D_int8_{scale}" for rank in (2, 3) for scale in ("float16", "float32")}

# Tests whose expected values a later package corrects, or that go against the specification: they are left out.
CORRECTED = {
    # 1.18.0 divides by the padding that is there.
    "1.16.2": {"test_averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_True"} | SATURATING,
    # 1.19.1 takes rows of `[batch, length, heads · size]` apart instead of reading them as `[batch, heads, length, size]`, and
    # lets neighbouring heads share a key. onnxruntime agrees.
    "1.18.0": {
        f"test_attention_{name}"
        for name in """3d 3d_attn_mask 3d_causal 3d_diff_heads_sizes 3d_diff_heads_sizes_attn_mask 3d_diff_heads_sizes_causal
        3d_diff_heads_sizes_scaled 3d_diff_heads_sizes_softcap 3d_diff_heads_with_past_and_present 3d_gqa 3d_gqa_attn_mask
        3d_gqa_causal 3d_gqa_scaled 3d_gqa_softcap 3d_gqa_with_past_and_present 3d_scaled 3d_softcap 3d_with_past_and_present
        3d_with_past_and_present_qk_matmul 3d_with_past_and_present_qk_matmul_bias 3d_with_past_and_present_qk_matmul_softcap
        3d_with_past_and_present_qk_matmul_softmax 4d_gqa 4d_gqa_attn_mask 4d_gqa_causal 4d_gqa_scaled 4d_gqa_softcap
        4d_gqa_with_past_and_present""".split()
    }
    | SATURATING,
}
SUITES = ("node", "simple", "pytorch-converted", "pytorch-operator")

# Names in the Open Inference Protocol, as the engine has them.
DATATYPES = {
    TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT8: "INT8",
    TensorProto.UINT16: "UINT16",
    TensorProto.INT16: "INT16",
    TensorProto.UINT32: "UINT32",
    TensorProto.INT32: "INT32",
    TensorProto.UINT64: "UINT64",
    TensorProto.INT64: "INT64",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64",
    # Narrower than any tensor of the engine: their bits, or for INT4 their values, one in each byte.
    TensorProto.FLOAT8E4M3FN: "UINT8",
    TensorProto.FLOAT8E4M3FNUZ: "UINT8",
    TensorProto.FLOAT8E5M2: "UINT8",
    TensorProto.FLOAT8E5M2FNUZ: "UINT8",
    TensorProto.UINT4: "UINT8",
    TensorProto.INT4: "INT8",
    TensorProto.FLOAT4E2M1: "UINT8",
}
HALF_BYTES = (TensorProto.UINT4, TensorProto.INT4, TensorProto.FLOAT4E2M1)
NUMPY = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "UINT16": np.uint16,
    "INT16": np.int16,
    "UINT32": np.uint32,
    "INT32": np.int32,
    "UINT64": np.uint64,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


class Test:
    """A folder with a model and its cases."""

    def __init__(self, suite, folder):
        self.suite, self.folder, self.name = suite, folder, folder.name
        self.model = onnx.load(folder / "model.onnx", load_external_data=False)
        self.opset = max((o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")), default=0)
        self.domains = {o.domain for o in self.model.opset_import} - {"", "ai.onnx"}

    def why_not_tensors(self):
        """Why this test is about something other than tensors of numbers, if it is."""
        for value in [*self.model.graph.input, *self.model.graph.output]:
            kind = value.type.WhichOneof("value")
            if kind != "tensor_type":
                return kind.removesuffix("_type")
            if value.type.tensor_type.elem_type == TensorProto.STRING:
                return "string"
        return None

    def is_random(self):
        """Whether the expected values come from a generator of random numbers that only one implementation has."""
        ops = {node.op_type for node in self.model.graph.node}
        return bool(ops & {"Bernoulli", "RandomUniformLike"}) or (
            self.name.startswith("test_training_dropout") and "zero_ratio" not in self.name
        )

    def category(self):
        if self.suite != "node":
            return self.suite
        other = self.why_not_tensors()
        if other:
            return f"node, {other}s"
        if self.domains:
            return "node, " + ", ".join(sorted(self.domains))
        if self.is_random():
            return "node, random numbers"
        if self.opset < 7:
            return "node, opset 1-6"
        if self.opset < 13:
            return "node, opset 7-12"
        return "node, opset 13-21" if self.opset <= 21 else "node, opset 22-23"


def tests(packages, only):
    """Every test of every package; one that two packages have is taken from the first."""
    seen = set()
    for version in VERSIONS:
        data = packages / f"onnx-{version}" / "onnx" / "backend" / "test" / "data"
        for suite in SUITES:
            for folder in sorted((data / suite).iterdir()):
                model = folder / "model.onnx"
                if not model.exists() or only not in folder.name or folder.name in CORRECTED[version]:
                    continue
                cases = sorted(folder.glob("test_data_set_*/*.pb"))
                content = (folder.name, model.read_bytes(), *(p.read_bytes() for p in cases))
                if content not in seen:
                    seen.add(content)
                    yield version, Test(suite, folder)


def tensor(path, value):
    """A stored tensor. Some of bfloat16 are stored as the integers that their bits are; the model knows better."""
    proto = TensorProto()
    proto.ParseFromString(path.read_bytes())
    declared = value.type.tensor_type.elem_type
    if proto.data_type == TensorProto.UINT16 and declared == TensorProto.BFLOAT16:
        proto.data_type = declared
    return proto


def to_bytes(proto):
    """Elements as the engine holds them."""
    if proto.data_type in HALF_BYTES:
        packed = (
            np.frombuffer(proto.raw_data, np.uint8) if proto.raw_data else np.array(proto.int32_data).astype(np.uint8)
        )
        halves = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[: math.prod(proto.dims)]
        return (((halves ^ 8) - 8).astype(np.uint8) if proto.data_type == TensorProto.INT4 else halves).tobytes()
    if DATATYPES[proto.data_type] == "UINT8" and proto.data_type != TensorProto.UINT8:
        return proto.raw_data or np.array(proto.int32_data).astype(np.uint8).tobytes()
    if proto.data_type == TensorProto.BFLOAT16:
        return proto.raw_data or np.array(proto.int32_data).astype(np.uint16).tobytes()
    return numpy_helper.to_array(proto).tobytes()


def floats(datatype, data, shape):
    """Elements as numpy has them; bfloat16, which it lacks, as float32."""
    if datatype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return np.frombuffer(data, NUMPY[datatype]).reshape(shape)


# Narrow floats: bits of the mantissa, bias, bit of the sign.
NARROW = {
    TensorProto.FLOAT8E4M3FN: (3, 7, 0x80),
    TensorProto.FLOAT8E4M3FNUZ: (3, 8, 0x80),
    TensorProto.FLOAT8E5M2: (2, 15, 0x80),
    TensorProto.FLOAT8E5M2FNUZ: (2, 16, 0x80),
    TensorProto.FLOAT4E2M1: (1, 1, 0x08),
}


def values(bits, data_type):
    """What narrow floats stand for; infinities and NaN as numbers of their own, zeros alike."""
    mantissa, bias, sign = NARROW[data_type]
    magnitude = bits & (sign - 1)
    exponent, fraction = magnitude >> mantissa, magnitude & ((1 << mantissa) - 1)
    whole = np.where(exponent > 0, fraction + (1 << mantissa), fraction)
    value = whole * 2.0 ** (np.maximum(exponent, 1).astype(int) - bias - mantissa)
    minus_zero_is_nan = data_type in (TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2FNUZ)
    value = np.where((bits == sign) & minus_zero_is_nan, np.nan, value)
    return np.where(bits & sign, -value, value)


def difference(found, wanted):
    """Why an output is not the expected one, or None."""
    datatype = DATATYPES.get(wanted.data_type)
    if found["datatype"] != datatype:
        return f"is {found['datatype']}, {datatype} is expected"
    if list(found["shape"]) != list(wanted.dims):
        return f"has shape {found['shape']}, {list(wanted.dims)} is expected"
    a = floats(datatype, Path(found["file"]).read_bytes(), found["shape"])
    b = floats(datatype, to_bytes(wanted), wanted.dims)
    if wanted.data_type in NARROW:
        a, b = values(a, wanted.data_type), values(b, wanted.data_type)
        bad = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    elif a.dtype.kind != "f":
        bad = a != b
    else:
        a, b = a.astype(np.float64), b.astype(np.float64)
        rtol = RTOL_BF16 if datatype == "BF16" else RTOL
        bad = ~np.isclose(a, b, rtol=rtol, atol=ATOL, equal_nan=True)
    if bad.any():
        at = np.argwhere(bad)[0].tolist()
        return (
            f"{int(bad.sum())} of {bad.size} elements differ, first at {at}: {a[tuple(at)]}, {b[tuple(at)]} is expected"
        )
    return None


class Engine:
    def __init__(self, command):
        self.process = subprocess.Popen([command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the engine ended at {request['model']}")
        return json.loads(line)


def inputs_of(test, case, work):
    graph = test.model.graph
    initialized = {i.name for i in graph.initializer}
    values = list(graph.input)
    files = sorted(case.glob("input_*.pb"), key=lambda p: int(p.stem.split("_")[1]))
    if len(values) != len(files):
        values = [v for v in values if v.name not in initialized]
    for index, (value, path) in enumerate(zip(values, files, strict=True)):
        if value.name in initialized:
            continue
        proto = tensor(path, value)
        file = work / f"input{index}"
        file.write_bytes(to_bytes(proto))
        yield {"name": value.name, "datatype": DATATYPES[proto.data_type], "shape": list(proto.dims), "file": str(file)}


def outcome(engine, test, work):
    """`passed`, `refused` or `wrong`, and why."""
    cases = sorted(test.folder.glob("test_data_set_*"))
    plain = test.why_not_tensors() is None
    for case in cases if plain else cases[:1]:
        inputs = list(inputs_of(test, case, work)) if plain else []
        answer = engine.run({"model": str(test.folder / "model.onnx"), "inputs": inputs, "outputs": str(work)})
        if "refused" in answer:
            return "refused", answer["refused"]
        if "failed" in answer:
            return "wrong", f"the run fails: {answer['failed']}"
        if not plain:
            return "wrong", "was accepted"
        wanted = sorted(case.glob("output_*.pb"), key=lambda p: int(p.stem.split("_")[1]))
        if len(wanted) != len(answer["outputs"]):
            return "wrong", f"{len(answer['outputs'])} outputs, {len(wanted)} are expected"
        for found, path, value in zip(answer["outputs"], wanted, test.model.graph.output):
            reason = difference(found, tensor(path, value))
            if reason:
                return "wrong", f"output `{found['name']}` {reason}"
    return "passed", ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True, help="the example `conformance` of lemma-graph")
    parser.add_argument("--packages", required=True, type=Path, help="folder with onnx-VERSION for each pinned version")
    parser.add_argument("--only", default="", help="tests whose name contains this")
    parser.add_argument("--list", action="store_true", help="print refused tests too, each with its reason")
    parser.add_argument("--record", action="store_true", help="make what passes now the floor")
    options = parser.parse_args()

    engine = Engine(options.engine)
    counts = defaultdict(Counter)
    refused, wrong = [], []
    with tempfile.TemporaryDirectory() as work:
        for version, test in tests(options.packages, options.only):
            category = f"onnx {version}: {test.category()}"
            result, reason = outcome(engine, test, Path(work))
            counts[category][result] += 1
            if result != "passed":
                (refused if result == "refused" else wrong).append((category, test.name, reason))

    if options.list:
        for category, name, reason in refused:
            print(f"refused  {category}: {name}: {reason}")
    for category, name, reason in wrong:
        print(f"WRONG    {category}: {name}: {reason}")
    print(f"\n{'category':44} {'tests':>6} {'passed':>7} {'refused':>8} {'wrong':>6} {'rate':>7}")
    for category, count in sorted(counts.items()):
        total = sum(count.values())
        row = (total, count["passed"], count["refused"], count["wrong"])
        print(f"{category:44} {row[0]:6} {row[1]:7} {row[2]:8} {row[3]:6} {100 * row[1] / total:6.1f}%")

    if options.only:
        return bool(wrong)
    passed = {category: count["passed"] for category, count in counts.items()}
    if options.record:
        FLOOR.write_text(json.dumps(passed, indent=2, sort_keys=True) + "\n")
    floor = json.loads(FLOOR.read_text()) if FLOOR.exists() else {}
    fewer = [c for c, least in floor.items() if passed.get(c, 0) < least]
    for category in fewer:
        print(f"{category}: {passed.get(category, 0)} pass, {floor[category]} did before")
    return bool(wrong or fewer)


if __name__ == "__main__":
    sys.exit(main())
