"""A mixture density network: a density of y for each x, where y is no function of x (Bishop 1994).

    python examples/gallery/mixture_density.py

The network gives K logits a, means m and logarithms s of widths. The loss is the negative logarithm of the density of the data

    L = -1/n Σ_i log Σ_k softmax(a_i)[k] N(y_i; m_ik, exp(s_ik)),     log N = -1/2 ((y - m) exp(-s))² - s - 1/2 log 2π

as logsumexp of sums of logarithms. The data are x = y + 0.3 sin(2π y) + noise, of which some x have three y. float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pages import Losses, show

import tensorgrad
from tensorgrad import nn, optim

K = 3


def model(rng: np.random.Generator) -> nn.Module:
    options = {"rng": rng, "dtype": "float64"}
    return nn.Sequential(nn.Linear(1, 20, **options), nn.Tanh(), nn.Linear(20, 3 * K, **options))


def batches(steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """x and y, (128, 1) each."""
    rng = np.random.default_rng(1)
    for _ in range(steps):
        y = rng.uniform(0, 1, (128, 1))
        yield y + 0.3 * np.sin(2 * np.pi * y) + rng.uniform(-0.1, 0.1, y.shape), y


def losses(steps: int, compiled: bool = True) -> Losses:
    net = model(np.random.default_rng(0))
    optimiser = optim.RMSprop(net.parameters(), lr=0.003)

    def step(x, y):
        a, m, s = net(x).split(3, axis=1)
        log_n = -0.5 * ((y - m) * (-s).exp()) ** 2 - s - 0.5 * np.log(2 * np.pi)
        loss = -(a.log_softmax() + log_n).logsumexp(axis=1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    step = tensorgrad.compile(step) if compiled else step
    return {"-log density": [step(x, y).item() for x, y in batches(steps)]}


if __name__ == "__main__":
    show(__doc__, losses, steps=2000)
