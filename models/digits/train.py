"""Trains and exports `digits`, a small convolutional network that reads handwritten digits of 8x8 pixels.

    pip install -r models/requirements.txt
    python -m models.digits.train          # from the root of the repository; about a minute on one core

Prints the accuracy, then writes model.onnx, example.json and example.npy beside this file. The same machine and the
same package versions give the same bytes.
"""

from pathlib import Path

import numpy as np
from onnx import helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from models import artifact, nn

HERE = Path(__file__).resolve().parent
SEED = 20250101
EXAMPLE = 1  # which image of the test set goes into the example
MAXIMUM = np.float32(16.0)  # pixels are counts of dark dots, 0..16


def load():
    """Images [N, 1, 8, 8] in 0..16 and labels [N]: three quarters to train, one quarter to test, stratified."""
    data = load_digits()
    images = data.images.astype(np.float32)[:, None, :, :]
    return train_test_split(images, data.target, test_size=0.25, random_state=SEED, stratify=data.target)


def build(rng):
    """8 and 16 channels of 3x3, one halving, 64 hidden units: 18,346 parameters."""
    return nn.Network(
        nn.Conv3x3(rng, 1, 8),
        nn.Relu(),
        nn.Conv3x3(rng, 8, 16),
        nn.Relu(),
        nn.MaxPool2x2(),
        nn.Flatten(),
        nn.Dense(rng, 16 * 4 * 4, 64),
        nn.Relu(),
        nn.Dense(rng, 64, 10),
    )


def jitter(rng, images):
    """Moves each image by at most one pixel, and adds a little noise: the training set is small."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    moved = np.empty_like(images)
    for i, (row, column) in enumerate(rng.integers(0, 3, (len(images), 2))):
        moved[i] = padded[i, :, row : row + 8, column : column + 8]
    return moved + rng.normal(0.0, 0.05, images.shape).astype(np.float32)


def export(network):
    """The network as ONNX, with the scaling to 0..1 in front and Softmax behind."""
    names = ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"]
    names += ["hidden.weight", "hidden.bias", "output.weight", "output.bias"]
    weights = [artifact.tensor("pixel.maximum", MAXIMUM)]
    weights += [artifact.tensor(name, p) for name, p in zip(names, network.params, strict=True)]
    same = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    node = helper.make_node
    nodes = [
        node("Div", ["image", "pixel.maximum"], ["scaled"], "scale"),
        node("Conv", ["scaled", "conv1.weight", "conv1.bias"], ["conv1.out"], "conv1", **same),
        node("Relu", ["conv1.out"], ["relu1.out"], "relu1"),
        node("Conv", ["relu1.out", "conv2.weight", "conv2.bias"], ["conv2.out"], "conv2", **same),
        node("Relu", ["conv2.out"], ["relu2.out"], "relu2"),
        node("MaxPool", ["relu2.out"], ["pool.out"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["pool.out"], ["flat"], "flatten", axis=1),
        node("Gemm", ["flat", "hidden.weight", "hidden.bias"], ["hidden.out"], "hidden"),
        node("Relu", ["hidden.out"], ["relu3.out"], "relu3"),
        node("Gemm", ["relu3.out", "output.weight", "output.bias"], ["logits"], "output"),
        node("Softmax", ["logits"], ["probabilities"], "softmax", axis=-1),
    ]
    artifact.write_model(
        HERE / "model.onnx",
        name="digits",
        doc="Handwritten digits, 8x8 pixels in 0..16, to probabilities of 0..9.",
        nodes=nodes,
        inputs=[artifact.value("image", "FP32", ["N", 1, 8, 8])],
        outputs=[artifact.value("probabilities", "FP32", ["N", 10])],
        weights=weights,
    )


def main():
    train_x, test_x, train_y, test_y = load()
    rng = np.random.default_rng(SEED)
    network = build(rng)
    nn.train(network, train_x / MAXIMUM, train_y, rng, epochs=60, augment=jitter)
    print(f"train accuracy {network.accuracy(train_x / MAXIMUM, train_y):.4f} ({len(train_x)} images)")
    print(f"test accuracy  {network.accuracy(test_x / MAXIMUM, test_y):.4f} ({len(test_x)} images)")

    export(network)
    got = artifact.run(HERE / "model.onnx", image=test_x)["probabilities"]
    artifact.assert_close("probabilities", got, network.probabilities(test_x / MAXIMUM))
    artifact.write_example(HERE, "image", test_x[EXAMPLE : EXAMPLE + 1])
    answer = got[EXAMPLE]
    print(f"example: a {test_y[EXAMPLE]}, read as {answer.argmax()} with probability {answer.max():.4f}")


if __name__ == "__main__":
    main()
