"""The same network in float32 and in float16.

    python examples/gallery/half_precision.py

A network of scikit-learn's digits, the cross-entropy L = -1/n Σ log softmax(z_i)[y_i], SGD with momentum. Of the float16 one
every operation is computed in float32 and rounded once, gradients are float32 on their way, and so is the optimiser's
velocity: nothing has to be scaled for it. At first its losses lie within thousandths of the others, then rounding leads
the two apart, to networks that are as good.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pages import Losses, show

import tensorgrad
from tensorgrad import data, nn, optim
from tensorgrad.nn import functional as F


def model(rng: np.random.Generator) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 24, rng=rng), nn.LayerNorm(24), nn.ReLU(), nn.Linear(24, 10, rng=rng))


def batches(steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images (64, 64) and labels (64)."""
    x, y = data.load_digits()
    x, rng = data.min_max(x), np.random.default_rng(1)
    for _ in range(steps):
        rows = rng.integers(len(x), size=64)
        yield x[rows], y[rows]


def losses(steps: int, compiled: bool = True) -> Losses:
    columns = {}
    for dtype in ("float32", "float16"):
        net = model(np.random.default_rng(0)).to(dtype=dtype)
        optimiser = optim.SGD(net.parameters(), lr=0.05, momentum=0.9)

        def step(x, y, net=net, optimiser=optimiser):
            loss = F.cross_entropy(net(x), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return loss

        step = tensorgrad.compile(step) if compiled else step
        columns[dtype] = [step(x.astype(dtype), y).item() for x, y in batches(steps)]
    return columns


if __name__ == "__main__":
    show(__doc__, losses, steps=200)
