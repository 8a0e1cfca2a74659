"""Writes the ONNX models of the comparison: seeded random weights, standard operators.

usage: models.py FOLDER MODEL...

mlp109k   784-128-64-10
dense1m   4 layers of 512, and 10
dense4m   4 layers of 1024, and 10
cnn264k   two 5x5 convolutions and three dense layers on 3x32x32
block50k  a pre-norm transformer block: 16 tokens, width 64, 4 heads, feed-forward 256
gpt2      the shape of GPT-2 small on 16 embedded tokens: 12 blocks of width 768, and logits of 50,257
"""

import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(11)


class Model:
    """A graph under construction, from `x` to `y`."""

    def __init__(self, name, shape, out):
        self.name, self.shape, self.out = name, shape, out
        self.nodes, self.constants, self.count = [], [], 0

    def fresh(self):
        self.count += 1
        return f"v{self.count}"

    def constant(self, values):
        values = np.asarray(values)
        if values.dtype != np.int64:
            values = values.astype(np.float32)
        name = self.fresh()
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def weight(self, *shape, fan):
        return self.constant(random.normal(0, (2 / fan) ** 0.5, shape))

    def op(self, kind, *inputs, out=None, **attributes):
        out = out or self.fresh()
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def dense(self, x, inputs, outputs, out=None):
        bias = self.constant(random.normal(0, 0.02, outputs))
        return self.op("Gemm", x, self.weight(outputs, inputs, fan=inputs), bias, transB=1, out=out)

    def save(self, folder, opset=17):
        value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        graph = helper.make_graph(
            self.nodes, self.name, [value("x", self.shape)], [value("y", self.out)], self.constants
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 9 if opset > 18 else 8
        onnx.checker.check_model(model)
        path = pathlib.Path(folder) / self.name
        path.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path / "network.onnx")


def perceptron(name, widths):
    model, x = Model(name, [1, widths[0]], [1, widths[-1]]), "x"
    for layer, (a, b) in enumerate(zip(widths, widths[1:])):
        last = layer == len(widths) - 2
        x = model.dense(x, a, b, out="y" if last else None)
        if not last:
            x = model.op("Relu", x)
    return model


def convolutional(name):
    model, x, channels = Model(name, [1, 3, 32, 32], [1, 10]), "x", 3
    for outputs in (12, 33):
        kernel = model.weight(outputs, channels, 5, 5, fan=25 * channels)
        bias = model.constant(random.normal(0, 0.02, outputs))
        x = model.op("Relu", model.op("Conv", x, kernel, bias, kernel_shape=[5, 5]))
        x = model.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        channels = outputs
    x = model.op("Reshape", x, model.constant(np.array([1, 825], dtype=np.int64)))
    for a, b in ((825, 247), (247, 173)):
        x = model.op("Relu", model.dense(x, a, b))
    model.dense(x, 173, 10, out="y")
    return model


def transformer_block(name, tokens=16, width=64, heads=4, inner=256):
    model, each = Model(name, [tokens, width], [tokens, width]), width // heads

    def norm(x):
        centred = model.op("Sub", x, model.op("ReduceMean", x, axes=[1], keepdims=1))
        square = model.op("ReduceMean", model.op("Mul", centred, centred), axes=[1], keepdims=1)
        deviation = model.op("Sqrt", model.op("Add", square, model.constant(1e-5)))
        return model.op("Div", centred, deviation)

    split = model.constant(np.array([tokens, heads, each], dtype=np.int64))
    joined = model.constant(np.array([tokens, width], dtype=np.int64))
    x, parts = norm("x"), []
    for perm in ([1, 0, 2], [1, 2, 0], [1, 0, 2]):
        part = model.op("MatMul", x, model.weight(width, width, fan=2 * width))
        parts.append(model.op("Transpose", model.op("Reshape", part, split), perm=perm))
    scores = model.op("Mul", model.op("MatMul", parts[0], parts[1]), model.constant(each**-0.5))
    mixed = model.op("MatMul", model.op("Softmax", scores, axis=2), parts[2])
    mixed = model.op("Reshape", model.op("Transpose", mixed, perm=[1, 0, 2]), joined)
    residual = model.op("Add", "x", model.op("MatMul", mixed, model.weight(width, width, fan=2 * width)))
    x = model.op("MatMul", norm(residual), model.weight(width, inner, fan=width))
    x = model.op("Relu", model.op("Add", x, model.constant(np.zeros(inner))))
    x = model.op("MatMul", x, model.weight(inner, width, fan=inner))
    model.op("Add", residual, model.op("Add", x, model.constant(np.zeros(width))), out="y")
    return model


def gpt(name, tokens=16, width=768, heads=12, layers=12, vocabulary=50257):
    """Embedded tokens to the logits of each: their lookup in a table is not part of it."""
    model, each = Model(name, [tokens, width], [tokens, vocabulary]), width // heads
    split = model.constant(np.array([tokens, heads, each], dtype=np.int64))
    joined = model.constant(np.array([tokens, width], dtype=np.int64))
    mask = model.constant(np.triu(np.full((tokens, tokens), -1e9), 1))

    def norm(x):
        ones = model.constant(random.normal(1, 0.02, width))
        return model.op("LayerNormalization", x, ones, model.constant(random.normal(0, 0.02, width)))

    def dense(x, inputs, outputs, fan):
        bias = model.constant(random.normal(0, 0.02, outputs))
        return model.op("Add", model.op("MatMul", x, model.weight(inputs, outputs, fan=fan)), bias)

    x = "x"
    for _ in range(layers):
        normal, parts = norm(x), []
        for perm in ([1, 0, 2], [1, 2, 0], [1, 0, 2]):
            part = dense(normal, width, width, 2 * width)
            parts.append(model.op("Transpose", model.op("Reshape", part, split), perm=perm))
        scores = model.op("Mul", model.op("MatMul", parts[0], parts[1]), model.constant(each**-0.5))
        weights = model.op("Softmax", model.op("Add", scores, mask), axis=2)
        mixed = model.op("Transpose", model.op("MatMul", weights, parts[2]), perm=[1, 0, 2])
        x = model.op("Add", x, dense(model.op("Reshape", mixed, joined), width, width, 2 * width))
        inner = model.op("Gelu", dense(norm(x), width, 4 * width, width), approximate="tanh")
        x = model.op("Add", x, dense(inner, 4 * width, width, 8 * width))
    model.op("MatMul", norm(x), model.weight(width, vocabulary, fan=2 * width), out="y")
    return model


MODELS = {
    "mlp109k": lambda name: perceptron(name, [784, 128, 64, 10]),
    "dense1m": lambda name: perceptron(name, [512] * 5 + [10]),
    "dense4m": lambda name: perceptron(name, [1024] * 5 + [10]),
    "cnn264k": convolutional,
    "block50k": transformer_block,
    "gpt2": gpt,
}

if __name__ == "__main__":
    for name in sys.argv[2:]:
        # One by one from the same seed, so that each is the same whatever else is made.
        random = np.random.default_rng(11)
        MODELS[name](name).save(sys.argv[1], opset=20 if name == "gpt2" else 17)
