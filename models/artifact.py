"""Writes and checks what is committed for a sample model: `model.onnx`, `example.json`, `example.npy`."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8  # the one that belongs to opset 17

_TYPES = {"FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64}


def tensor(name, array):
    """A weight of the graph."""
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def value(name, datatype, shape):
    """An input or output of the graph; `datatype` as the Open Inference Protocol spells it."""
    return helper.make_tensor_value_info(name, _TYPES[datatype], shape)


def write_model(path: Path, *, name, doc, nodes, inputs, outputs, weights):
    """Checks the model, with full shape inference, and writes it so that equal models are equal bytes."""
    graph = helper.make_graph(nodes, name, inputs, outputs, weights, doc_string=doc)
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="lemma",
        producer_version="1",
    )
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"{path.name}: {path.stat().st_size} bytes, sha256 {digest}")


def run(path: Path, **inputs):
    """Outputs by name, from onnxruntime on one thread with the graph as it is written."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs), strict=True))


def assert_close(what, got, expected, tolerance=1e-5):
    """Fails unless both arrays have one shape and differ nowhere by more than `tolerance`; prints by how much."""
    if got.shape != expected.shape:
        raise AssertionError(f"{what}: shape {got.shape}, expected {expected.shape}")
    difference = float(np.abs(got - expected).max())
    if not difference <= tolerance:
        raise AssertionError(f"{what}: differs by {difference:.3g}, more than {tolerance}")
    print(f"{what}: onnxruntime and numpy differ by at most {difference:.2g} over {len(got)} samples")


def write_example(folder: Path, name, array):
    """One request: the body of an Open Inference Protocol call, and the bare tensor for numpy users."""
    body = {
        "inputs": [
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": "FP32",
                "data": [int(v) if v == int(v) else round(float(v), 6) for v in array.ravel()],
            }
        ]
    }
    (folder / "example.json").write_text(json.dumps(body) + "\n")
    np.save(folder / "example.npy", array)
