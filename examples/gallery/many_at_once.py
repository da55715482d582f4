"""Fifty networks trained as one, and one network with the gradient of each sample by itself.

    python examples/gallery/many_at_once.py

The networks 2-8-2 say on which of two half moons a point lies. The loss of each is the cross-entropy

    L = -1/n Σ log softmax(z_i)[y_i]

nn.Ensemble computes all at once; their losses are summed up, and as no parameter is shared each gets its own gradient. Of one
more network func.vmap of func.grad gives the gradient g_i of each sample. Before their mean is taken each is scaled to a norm
of 1/2 at most, so that no single sample decides, as in training with differential privacy (Abadi et al. 2016):

    p = p - η/n Σ g_i min(1, 1/2 / |g_i|)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pages import Losses, show

import tensorgrad
from tensorgrad import Tensor, func, nn, optim
from tensorgrad.nn import functional as F

MEMBERS, LARGEST = 50, 0.5


def model(rng: np.random.Generator) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8, rng=rng), nn.Tanh(), nn.Linear(8, 2, rng=rng))


def batches(steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Points (32, 2) and the moons they lie on (32)."""
    rng = np.random.default_rng(1)
    for _ in range(steps):
        angle, y = rng.uniform(0, np.pi, 32), rng.integers(2, size=32)
        x = np.stack([np.cos(angle) + y, (1 - 2 * y) * np.sin(angle) + 0.5 * y], axis=1)
        yield (x + rng.normal(0, 0.1, x.shape)).astype("f"), y


def losses(steps: int, compiled: bool = True) -> Losses:
    rng = np.random.default_rng(0)
    ensemble = nn.Ensemble(model(rng) for _ in range(MEMBERS))
    optimiser = optim.Adam(ensemble.parameters(), lr=0.01)
    single = model(rng)
    of_single = optim.SGD(single.parameters(), lr=0.5)

    def step_of_all(x, y):
        z = ensemble(x)  # (MEMBERS, n, 2)
        members = F.cross_entropy(z.reshape((-1, 2)), tensorgrad.tile(y, MEMBERS), reduction="none")
        members = members.reshape((MEMBERS, -1)).mean(axis=1)
        optimiser.zero_grad()
        members.sum().backward()
        optimiser.step()
        return members

    def error(parameters, x, y):
        return F.cross_entropy(func.functional_call(single, parameters, x), y)

    def step_of_samples(x, y):
        parameters = dict(single.named_parameters())
        errors, gradients = func.vmap(func.value_and_grad(error), (None, 0, 0))(parameters, x, y)
        norm = sum((g.reshape((len(x), -1)) ** 2).sum(axis=1) for g in gradients.values()).sqrt()
        scale = LARGEST / norm.maximum(LARGEST)
        for name, parameter in parameters.items():
            parameter.grad = tensorgrad.tensordot(scale, gradients[name], 1).detach() / len(x)
        of_single.step()
        return errors.mean()

    if compiled:
        step_of_all, step_of_samples = tensorgrad.compile(step_of_all), tensorgrad.compile(step_of_samples)
    columns: Losses = {"best of 50": [], "mean of 50": [], "worst of 50": [], "each clipped": []}
    for x, y in batches(steps):
        x, y = Tensor(x), Tensor(y)
        members = step_of_all(x, y).numpy()
        for name, value in zip(columns, (members.min(), members.mean(), members.max(), step_of_samples(x, y)), strict=True):
            columns[name].append(value.item())
    return columns


if __name__ == "__main__":
    show(__doc__, losses, steps=200)
