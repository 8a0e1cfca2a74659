"""A neural-network trainer in plain numpy, just large enough for the sample models.

Every layer has `forward(x)`, which remembers what its gradient needs, and `backward(dy)`, which leaves the
gradients of its parameters in `grads` and returns the gradient of its input. Arrays are float32, images are NCHW.
Training is a pure function of the data and the seed, given one BLAS thread (which the package sees to).
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


class Layer:
    """A layer without parameters; those that have some list them in `params` and `grads`."""

    params: list[np.ndarray] = []
    grads: list[np.ndarray] = []


class Dense(Layer):
    """y = x @ W + b, with W of shape [inputs, outputs]."""

    def __init__(self, rng, inputs, outputs):
        weight = rng.normal(0.0, np.sqrt(2.0 / inputs), (inputs, outputs)).astype(np.float32)
        self.params = [weight, np.zeros(outputs, np.float32)]

    def forward(self, x):
        self.x = x
        weight, bias = self.params
        return x @ weight + bias

    def backward(self, dy):
        self.grads = [self.x.T @ dy, dy.sum(axis=0)]
        return dy @ self.params[0].T


class Conv3x3(Layer):
    """3x3 convolution, stride 1, one pixel of zero padding: the image keeps its size. W is [out, in, 3, 3]."""

    def __init__(self, rng, channels_in, channels_out):
        scale = np.sqrt(2.0 / (9 * channels_in))
        weight = rng.normal(0.0, scale, (channels_out, channels_in, 3, 3)).astype(np.float32)
        self.params = [weight, np.zeros(channels_out, np.float32)]

    @staticmethod
    def _windows(x):
        """[N, C, H, W] -> a view [N, C, H, W, 3, 3] of each pixel's neighbourhood."""
        return sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3))

    def forward(self, x):
        weight, bias = self.params
        self.windows = self._windows(x)
        y = np.tensordot(self.windows, weight, axes=((1, 4, 5), (1, 2, 3)))
        return (y + bias).transpose(0, 3, 1, 2)

    def backward(self, dy):
        weight, _ = self.params
        self.grads = [
            np.tensordot(dy, self.windows, axes=((0, 2, 3), (0, 2, 3))),
            dy.sum(axis=(0, 2, 3)),
        ]
        # The gradient of a convolution is the convolution of dy with the kernel turned by 180 degrees.
        dx = np.tensordot(self._windows(dy), weight[:, :, ::-1, ::-1], axes=((1, 4, 5), (0, 2, 3)))
        return dx.transpose(0, 3, 1, 2)


class Relu(Layer):
    """max(x, 0)."""

    def forward(self, x):
        self.mask = x > 0
        return x * self.mask

    def backward(self, dy):
        return dy * self.mask


class MaxPool2x2(Layer):
    """Maximum over 2x2 squares; height and width are halved and must be even."""

    def forward(self, x):
        n, c, h, w = x.shape
        self.shape = x.shape
        squares = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)
        self.winner = squares.argmax(axis=-1)[..., None]
        return np.take_along_axis(squares, self.winner, axis=-1)[..., 0]

    def backward(self, dy):
        n, c, h, w = self.shape
        squares = np.zeros((n, c, h // 2, w // 2, 4), np.float32)
        np.put_along_axis(squares, self.winner, dy[..., None], axis=-1)
        return squares.reshape(n, c, h // 2, w // 2, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(self.shape)


class Flatten(Layer):
    """[N, ...] -> [N, product of the rest]."""

    def forward(self, x):
        self.shape = x.shape
        return x.reshape(x.shape[0], -1)

    def backward(self, dy):
        return dy.reshape(self.shape)


def softmax(logits):
    """Probabilities along the last axis."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


class Network:
    """A chain of layers that ends in logits."""

    def __init__(self, *layers):
        self.layers = layers

    def logits(self, x):
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def probabilities(self, x):
        return softmax(self.logits(x))

    def accuracy(self, x, labels):
        return float((self.logits(x).argmax(axis=-1) == labels).mean())

    def gradients(self, x, labels):
        """Gradients of the mean cross-entropy, for each parameter in the order of `params`."""
        dy = self.probabilities(x)
        dy[np.arange(len(labels)), labels] -= 1.0
        dy /= len(labels)
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return [g for layer in self.layers for g in layer.grads]

    @property
    def params(self):
        return [p for layer in self.layers for p in layer.params]


def train(network, x, labels, rng, *, epochs, batch=32, rate=2e-3, decay=1e-2, augment=None):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019) and a cosine schedule down to zero."""
    means = [np.zeros_like(p) for p in network.params]
    squares = [np.zeros_like(p) for p in network.params]
    steps = epochs * (len(x) // batch)
    step = 0
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x) - batch + 1, batch):
            chosen = order[start : start + batch]
            inputs = augment(rng, x[chosen]) if augment else x[chosen]
            gradients = network.gradients(inputs, labels[chosen])
            step += 1
            now = np.float32(rate * 0.5 * (1.0 + np.cos(np.pi * step / steps)))
            for p, g, m, s in zip(network.params, gradients, means, squares, strict=True):
                m += np.float32(0.1) * (g - m)
                s += np.float32(0.001) * (g * g - s)
                m_hat = m / np.float32(1.0 - 0.9**step)
                s_hat = s / np.float32(1.0 - 0.999**step)
                if p.ndim > 1:  # biases do not decay
                    p -= now * np.float32(decay) * p
                p -= now * m_hat / (np.sqrt(s_hat) + np.float32(1e-8))
