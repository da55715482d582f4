"""Learning to learn: initial weights from which two steps of gradient descent fit any sine (MAML, Finn et al. 2017).

    python examples/gallery/maml.py

A task is a sine of some amplitude and phase; l(θ; x, y) is the mean squared error of a network with the parameters θ. For each
task θ' = θ - α ∇l(θ; x, y), twice, and the loss is that of new points, a mean over tasks,

    L(θ) = 1/n Σ_tasks l(θ''; x*, y*)

whose gradient goes through both of the inner gradients. The tasks are computed at once by vmap.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pages import Losses, show

import tensorgrad
from tensorgrad import func, nn, optim
from tensorgrad.nn import functional as F

TASKS, ALPHA = 8, 0.05


def model(rng: np.random.Generator) -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(1, 20, rng=rng), nn.Tanh(), nn.Linear(20, 20, rng=rng), nn.Tanh(), nn.Linear(20, 1, rng=rng))
    )


def batches(steps: int) -> Iterator[tuple[np.ndarray, ...]]:
    """x, y to learn from and x*, y* to be judged by, (TASKS, 10, 1) each."""
    rng = np.random.default_rng(1)
    for _ in range(steps):
        size, phase = rng.uniform(0.5, 2, (TASKS, 1, 1)), rng.uniform(0, np.pi, (TASKS, 1, 1))
        x = rng.uniform(-3, 3, (TASKS, 20, 1))
        y = size * np.sin(x + phase)
        yield tuple(part.astype("f") for part in (x[:, :10], y[:, :10], x[:, 10:], y[:, 10:]))


def losses(steps: int, compiled: bool = True) -> Losses:
    net = model(np.random.default_rng(0))
    optimiser = optim.Adam(net.parameters(), lr=3e-3)

    def error(theta, x, y):
        return F.mse_loss(func.functional_call(net, theta, x), y)

    def learnt(theta, x, y, x_new, y_new):
        for _ in range(2):
            gradient = func.grad(error)(theta, x, y)
            theta = {name: p - ALPHA * gradient[name] for name, p in theta.items()}
        return error(theta, x_new, y_new)

    def step(*tasks):
        loss = func.vmap(learnt, (None, 0, 0, 0, 0))(dict(net.named_parameters()), *tasks).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    step = tensorgrad.compile(step) if compiled else step
    return {"after two steps": [step(*tasks).item() for tasks in batches(steps)]}


if __name__ == "__main__":
    show(__doc__, losses, steps=1000)
