"""A neural ordinary differential equation: the law of motion of a spiral is learnt from where it goes (Chen et al. 2018).

    python examples/gallery/neural_ode.py

dy/dt = f(y), f being a network of y³, is solved from y_0 by Runge and Kutta's fourth-order steps of h = 0.1,

    y_k+1 = y_k + h/6 (k1 + 2 k2 + 2 k3 + k4),   k1 = f(y_k), k2 = f(y_k + h/2 k1), k3 = f(y_k + h/2 k2), k4 = f(y_k + h k3)

and the loss compares all of the way with the true one: L = mean of |y_k - true y_k|. The gradient goes back through all steps.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pages import Losses, show

import tensorgrad
from tensorgrad import nn, optim
from tensorgrad.nn import functional as F

H, POINTS = 0.1, 10
TRUE = np.array([[-0.1, 2.0], [-2.0, -0.1]])  # dy/dt = y³ TRUE


def model(rng: np.random.Generator) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 16, rng=rng), nn.Tanh(), nn.Linear(16, 2, rng=rng))


def solve(f, y, points: int):
    """Where y is after each step, a list."""
    way = []
    for _ in range(points):
        k1 = f(y)
        k2 = f(y + H / 2 * k1)
        k3 = f(y + H / 2 * k2)
        k4 = f(y + H * k3)
        y = y + H / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        way.append(y)
    return way


def batches(steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Beginnings (20, 2), and the true way from there (POINTS, 20, 2)."""
    rng = np.random.default_rng(1)
    for _ in range(steps):
        y = rng.uniform(-1.5, 1.5, (20, 2))
        yield y.astype("f"), np.stack(solve(lambda y: y**3 @ TRUE, y, POINTS)).astype("f")


def losses(steps: int, compiled: bool = True) -> Losses:
    net = model(np.random.default_rng(0))
    optimiser = optim.RMSprop(net.parameters(), lr=3e-3)

    def step(y, true):
        loss = F.l1_loss(tensorgrad.stack(solve(lambda y: net(y**3), y, POINTS)), true)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    step = tensorgrad.compile(step) if compiled else step
    return {"distance": [step(y, true).item() for y, true in batches(steps)]}


if __name__ == "__main__":
    show(__doc__, losses, steps=500)
