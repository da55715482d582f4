"""Oracles of tensorgrad/ops/activation.py."""

from __future__ import annotations

import numpy as np
from scipy import special


def gelu(x: np.ndarray, approximate: str) -> np.ndarray:
    if approximate == "none":
        return x * special.ndtr(x)
    # (1 + tanh u) / 2 = expit(2 u)
    return x * special.expit(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))


# What an activation comes to far out, at the left and at the right (a function of x, or a number), and its slope there; where
# nothing is said these are a ReLU's
FAR_OUT = {
    "elu": (-1, lambda x: x, (0, 1)),
    "leaky_relu": (lambda x: 0.01 * x, lambda x: x, (0.01, 1)),
    "logsigmoid": (lambda x: x, 0, (1, 0)),
    "sigmoid": (0, 1, (0, 0)),
    "tanh": (-1, 1, (0, 0)),
}

ORACLES = {
    "relu": lambda x: np.where(x > 0, x, 0),
    "relu_grad": lambda g, unit: np.where(unit > 0, g, 0),
    "sigmoid": special.expit,
    "sigmoid_grad": lambda g, s: g * s * (1 - s),
    "tanh": np.tanh,
    "tanh_grad": lambda g, t: g * (1 - t**2),
    "leaky_relu": lambda x, negative_slope: np.where(x > 0, x, negative_slope * x),
    "elu": lambda x, alpha: np.where(x > 0, x, alpha * (np.exp(x) - 1)),
    "gelu": gelu,
    "silu": lambda x: x * special.expit(x),
    "softplus": lambda x: -special.log_expit(-x),
    "logsigmoid": special.log_expit,
    "log_complement_sigmoid": lambda x: special.log_expit(-x),
}
