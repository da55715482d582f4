"""A convolutional network with batch norm, on scikit-learn's digits.

    python examples/gallery/cnn.py

Convolution, batch norm, ReLU and max pooling twice, then a linear layer to z (n, 10). The loss is the cross-entropy

    L = -1/n Σ_i log softmax(z_i)[y_i]

Adam, batches of 64.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pages import Losses, show

import tensorgrad
from tensorgrad import data, nn, optim
from tensorgrad.nn import functional as F


def model(rng: np.random.Generator) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1, rng=rng), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 12, 3, padding=1, rng=rng), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(48, 10, rng=rng)),
    )


def batches(steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images (64, 1, 8, 8) and their labels (64)."""
    x, y = data.load_digits()
    images, rng = data.min_max(x).reshape(-1, 1, 8, 8), np.random.default_rng(1)
    for _ in range(steps):
        rows = rng.integers(len(x), size=64)
        yield images[rows], y[rows]


def losses(steps: int, compiled: bool = True) -> Losses:
    net = model(np.random.default_rng(0))
    optimiser = optim.Adam(net.parameters(), lr=1e-3)

    def step(x, y):
        loss = F.cross_entropy(net(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    step = tensorgrad.compile(step) if compiled else step
    return {"cross-entropy": [step(x, y).item() for x, y in batches(steps)]}


if __name__ == "__main__":
    show(__doc__, losses, steps=300)
