"""Trains and exports `iris`, a multilayer perceptron with one hidden layer over four measurements of a flower.

    pip install -r models/requirements.txt
    python -m models.iris.train            # from the root of the repository; a second on one core

Prints the accuracy, then writes model.onnx, example.json and example.npy beside this file. The same machine and the
same package versions give the same bytes.
"""

from pathlib import Path

import numpy as np
from onnx import helper
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

from models import artifact, nn

HERE = Path(__file__).resolve().parent
SEED = 20250102
EXAMPLE = 2  # which flower of the test set goes into the example


def load():
    """Features [N, 4] in centimetres and labels [N]: 70 % to train, 30 % to test, stratified."""
    data = load_iris()
    features = data.data.astype(np.float32)
    return train_test_split(features, data.target, test_size=0.3, random_state=SEED, stratify=data.target)


def build(rng):
    """Four inputs, 16 hidden units, three classes: 131 parameters."""
    return nn.Network(nn.Dense(rng, 4, 16), nn.Relu(), nn.Dense(rng, 16, 3))


def export(network, mean, deviation):
    """The network as ONNX, with the standardisation in front, Softmax and ArgMax behind."""
    names = ["hidden.weight", "hidden.bias", "output.weight", "output.bias"]
    weights = [artifact.tensor("feature.mean", mean), artifact.tensor("feature.deviation", deviation)]
    weights += [artifact.tensor(name, p) for name, p in zip(names, network.params, strict=True)]
    node = helper.make_node
    nodes = [
        node("Sub", ["features", "feature.mean"], ["centred"], "centre"),
        node("Div", ["centred", "feature.deviation"], ["standardised"], "scale"),
        node("Gemm", ["standardised", "hidden.weight", "hidden.bias"], ["hidden.out"], "hidden"),
        node("Relu", ["hidden.out"], ["relu.out"], "relu"),
        node("Gemm", ["relu.out", "output.weight", "output.bias"], ["logits"], "output"),
        node("Softmax", ["logits"], ["probabilities"], "softmax", axis=-1),
        node("ArgMax", ["probabilities"], ["label"], "decide", axis=-1, keepdims=0),
    ]
    artifact.write_model(
        HERE / "model.onnx",
        name="iris",
        doc="Sepal length and width, petal length and width in cm, to setosa (0), versicolor (1) or virginica (2).",
        nodes=nodes,
        inputs=[artifact.value("features", "FP32", ["N", 4])],
        outputs=[artifact.value("probabilities", "FP32", ["N", 3]), artifact.value("label", "INT64", ["N"])],
        weights=weights,
    )


def main():
    train_x, test_x, train_y, test_y = load()
    mean, deviation = train_x.mean(axis=0), train_x.std(axis=0)
    standardised = [(x - mean) / deviation for x in (train_x, test_x)]
    rng = np.random.default_rng(SEED)
    network = build(rng)
    nn.train(network, standardised[0], train_y, rng, epochs=100, batch=16, rate=5e-3)
    print(f"train accuracy {network.accuracy(standardised[0], train_y):.4f} ({len(train_x)} flowers)")
    print(f"test accuracy  {network.accuracy(standardised[1], test_y):.4f} ({len(test_x)} flowers)")

    export(network, mean, deviation)
    got = artifact.run(HERE / "model.onnx", features=test_x)
    expected = network.probabilities(standardised[1])
    artifact.assert_close("probabilities", got["probabilities"], expected)
    artifact.assert_close("label", got["label"], expected.argmax(axis=-1), tolerance=0)
    artifact.write_example(HERE, "features", test_x[EXAMPLE : EXAMPLE + 1])
    label, probability = got["label"][EXAMPLE], got["probabilities"][EXAMPLE].max()
    print(f"example: class {test_y[EXAMPLE]}, read as {label} with probability {probability:.4f}")


if __name__ == "__main__":
    main()
