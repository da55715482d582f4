"""Digits as unit vectors, those of one kind side by side: a triplet loss (Schroff et al. 2015).

    python examples/gallery/triplet.py

A network gives each image a vector v of length 1. Of triplets of an image a, another p of the same digit and one n of another
the loss is

    L = 1/n Σ max(|v_a - v_p| - |v_a - v_n| + 1/2, 0)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pages import Losses, show

import tensorgrad
from tensorgrad import data, nn, optim
from tensorgrad.nn import functional as F


def model(rng: np.random.Generator) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 24, rng=rng), nn.ReLU(), nn.Linear(24, 8, rng=rng))


def batches(steps: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Images, others of the same digit, and of another one, (64, 64) each."""
    x, y = data.load_digits()
    x, rng = data.min_max(x), np.random.default_rng(1)
    rows = [np.flatnonzero(y == k) for k in range(10)]
    for _ in range(steps):
        digits = rng.integers(10, size=64)
        others = (digits + rng.integers(1, 10, size=64)) % 10
        yield tuple(x[[rng.choice(rows[k]) for k in kinds]] for kinds in (digits, digits, others))


def losses(steps: int, compiled: bool = True) -> Losses:
    net = model(np.random.default_rng(0))
    optimiser = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    def step(*images):
        a, p, n = (F.normalize(net(x)) for x in images)
        loss = F.triplet_margin_loss(a, p, n, margin=0.5)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    step = tensorgrad.compile(step) if compiled else step
    return {"triplet": [step(*images).item() for images in batches(steps)]}


if __name__ == "__main__":
    show(__doc__, losses, steps=300)
