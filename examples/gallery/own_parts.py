"""An operation, a layer and an optimiser of one's own, and gradients of several batches added up.

    python examples/gallery/own_parts.py

Weights of the layer are -1 and 1, signs of numbers that are learnt: y = s sign(W) x + b. The derivative of sign is 0, so that
of the operation is taken to be 1, straight through it (Bengio et al. 2013). The loss of a network of two such layers is

    L = -1/n Σ log softmax(z_i)[y_i]

the optimiser is Lion (Chen et al. 2023), and each step has the gradients of four batches:

    u = sign(b1 m + (1 - b1) g),   p = p - lr (u + weight_decay p),   m = b2 m + (1 - b2) g
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pages import Losses, show

import tensorgrad
from tensorgrad import data, nn, optim
from tensorgrad.nn import functional as F
from tensorgrad.op import Unary


class StraightSign(Unary):
    """y = sign(x), with the gradient of y = x

    forward    y  = sign(x)
    backward   gx = g
    tangent    ty = tx
    """

    name, signature, reads = "straight_sign", "()->()", ""

    def forward(self, xp, x):
        return xp.sign(x)

    def backward(self, g, y, x):
        return (lambda: g,)

    def jvp(self, y, x):
        return (lambda t: t,)


straight_sign = StraightSign()


class SignLinear(nn.Module):
    """y = s x sign(W) + b."""

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(rng.normal(0, 0.1, (inputs, outputs)))
        self.scale, self.bias = nn.Parameter(np.full(outputs, inputs**-0.5)), nn.Parameter(np.zeros(outputs))

    def forward(self, x):
        return x @ straight_sign(self.weight) * self.scale + self.bias


class Lion(optim.Optimiser):
    slots = ("m",)

    def __init__(self, params, lr: float, b1: float = 0.9, b2: float = 0.99, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, b1=b1, b2=b2, weight_decay=weight_decay)

    def numbers(self, group, t):
        return {name: group[name] for name in ("lr", "b1", "b2", "weight_decay")}

    def update(self, group, p, g, m, *, lr, b1, b2, weight_decay):
        return p - lr * (np.sign(b1 * m + (1 - b1) * g) + weight_decay * p), b2 * m + (1 - b2) * g


def model(rng: np.random.Generator) -> nn.Module:
    return nn.Sequential(SignLinear(64, 24, rng), nn.ReLU(), SignLinear(24, 10, rng))


def batches(steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Four batches of images (4, 16, 64) and their labels (4, 16)."""
    x, y = data.load_digits()
    x, rng = data.min_max(x), np.random.default_rng(1)
    for _ in range(steps):
        rows = rng.integers(len(x), size=(4, 16))
        yield x[rows], y[rows]


def losses(steps: int, compiled: bool = True) -> Losses:
    net = model(np.random.default_rng(0))
    optimiser = Lion(net.parameters(), lr=1e-3, weight_decay=0.01)

    def step(x, y):
        optimiser.zero_grad()
        parts = [F.cross_entropy(net(x[i]), y[i]) / 4 for i in range(4)]
        for part in parts:
            part.backward()
        optimiser.step()
        return sum(parts)

    step = tensorgrad.compile(step) if compiled else step
    return {"cross-entropy": [step(x, y).item() for x, y in batches(steps)]}


if __name__ == "__main__":
    show(__doc__, losses, steps=300)
