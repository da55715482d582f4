"""Five multi-layer perceptrons with their gradients derived by hand, in plain NumPy.

This file does not import tensorgrad: it is what tensorgrad's recorded gradients are proved equal to. Rows are samples:
X (m, n0); W_l (n_{l-1}, n_l), b_l (n_l); z_l = a_{l-1} W_l + b_l, a_0 = X, a_l = act(z_l); Y (m, k) targets, one row a sample.

Softmax and mean cross-entropy, L = -1/m sum(Y * log softmax(z_L)):

    dL/dz_L = (softmax(z_L) - Y) / m

Sigmoid and half the squared error, L = 1/(2m) sum((a_L - Y)²):

    dL/dz_L = (a_L - Y) * a_L (1 - a_L) / m

Every layer below, with the multivariable chain rule:

    dL/dW_l = a_{l-1}ᵀ dz_l            dL/db_l = sum of dz_l over samples
    dL/da_l = dz_{l+1} W_{l+1}ᵀ        dz_l = dL/da_l * act'(z_l)
    relu'(z) = 1 where z > 0, else 0   sigmoid'(z) = s (1 - s)

An L2 penalty (l2/m) sum of W² adds (l2/m) 2 W to dL/dW; biases are free of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Layers = list[tuple[Array, Array]]  # (W, b) of each layer, in order


@dataclass(frozen=True)
class System:
    """A published network: the parameters of its formulas, and its data."""

    name: str
    widths: tuple[int, ...]
    hidden: str  # "relu" or "sigmoid"
    loss: str  # "cross_entropy" (on softmax) or "squared_error" (on sigmoid)
    l2: float = 0.0


SYSTEMS = {
    "A": System("digits-6x500", (64, *[500] * 6, 10), "relu", "cross_entropy"),
    "B": System("mnist-logistic", (784, 200, 100, 50, 10), "sigmoid", "cross_entropy", l2=0.01),
    "C": System("mnist-gd", (784, 500, 150, 10), "relu", "cross_entropy"),
    "D": System("mnist-sse", (784, 100, 10), "sigmoid", "squared_error"),
    "E": System("mnist-llayer", (784, 45, 10), "relu", "cross_entropy"),
}


def sigmoid(z: Array) -> Array:
    """1 / (1 + e^-z), without overflow of the exponential."""
    e: Array = np.exp(-np.abs(z))
    s: Array = np.where(z >= 0, 1.0, e) / (1 + e)
    return s


def relu(z: Array) -> Array:
    return np.where(z > 0, z, 0)


def softmax(z: Array) -> Array:
    e: Array = np.exp(z - z.max(axis=1, keepdims=True))
    p: Array = e / e.sum(axis=1, keepdims=True)
    return p


ACTIVATIONS = {"relu": relu, "sigmoid": sigmoid}


def activation_gradient(kind: str, a: Array) -> Array:
    """act'(z), from a = act(z)."""
    return (a > 0).astype(a.dtype) if kind == "relu" else a * (1 - a)


def forward(x: Array, layers: Layers, hidden: str, loss: str) -> list[Array]:
    """a_0 = x, a_1, ..., a_L; the last one is the softmax or sigmoid of z_L, depending on the loss."""
    activations = [x]
    for w, b in layers[:-1]:
        activations.append(ACTIVATIONS[hidden](activations[-1] @ w + b))
    w, b = layers[-1]
    z = activations[-1] @ w + b
    activations.append(softmax(z) if loss == "cross_entropy" else sigmoid(z))
    return activations


def mean_cross_entropy(p: Array, y: Array) -> float:
    """-1/m times the sum of y * log p; entries where y is 0 contribute 0 for any p."""
    is_nonzero = y != 0
    return float(-(y[is_nonzero] * np.log(p[is_nonzero])).sum() / len(y))


def cost(x: Array, y: Array, layers: Layers, hidden: str, loss: str, l2: float = 0.0) -> float:
    """L for inputs x (m, n0) and targets y (m, k)."""
    a = forward(x, layers, hidden, loss)[-1]
    base = mean_cross_entropy(a, y) if loss == "cross_entropy" else float(((a - y) ** 2).sum()) / (2 * len(y))
    return base + l2 / len(y) * sum(float((w**2).sum()) for w, _ in layers)


def gradients(x: Array, y: Array, layers: Layers, hidden: str, loss: str, l2: float = 0.0) -> Layers:
    """(dL/dW, dL/db) of each layer, in order."""
    m = len(y)
    activations = forward(x, layers, hidden, loss)
    a = activations[-1]
    dz = (a - y) / m if loss == "cross_entropy" else (a - y) * activation_gradient("sigmoid", a) / m
    layer_gradients: Layers = []
    for i in reversed(range(len(layers))):
        w, _ = layers[i]
        layer_gradients.append((activations[i].T @ dz + 2 * l2 / m * w, dz.sum(axis=0)))
        if i:
            dz = (dz @ w.T) * activation_gradient(hidden, activations[i])
    return layer_gradients[::-1]


def layer_backward(da: Array, a_prev: Array, w: Array, b: Array, kind: str) -> tuple[Array, Array, Array]:
    """One layer, averaging over samples: (dL/da_prev, dL/dW, dL/db), the last two divided by m."""
    a = ACTIVATIONS[kind](a_prev @ w + b)
    dz = da * activation_gradient(kind, a)
    return dz @ w.T, a_prev.T @ dz / len(da), dz.mean(axis=0)


def one_hot(labels: Array, classes: int) -> Array:
    """Rows with a 1 at the label."""
    return np.eye(classes)[labels]
