"""A network that solves the Korteweg-de Vries equation, a wave on shallow water, by its third derivative (Raissi et al. 2019).

    python examples/gallery/pinn.py

u(x, t) is a network of two inputs. r = u_t + 6 u u_x + u_xxx is 0 for a solution; u0(x) = 1/2 sech²(x/2) is where the wave is
at t = 0, after which it moves by 1 in each unit of time. With points (x, t) inside and points x at the beginning the loss is

    L = mean of r(x, t)²  +  mean of (u(x, 0) - u0(x))²

Derivatives by x and t are those of a sum over points: each u depends on its own point alone. float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pages import Losses, show

import tensorgrad
from tensorgrad import Tensor, nn, optim


def model(rng: np.random.Generator) -> nn.Module:
    options = {"rng": rng, "dtype": "float64"}
    return nn.Sequential(
        *(nn.Linear(2, 16, **options), nn.Tanh(), nn.Linear(16, 16, **options), nn.Tanh(), nn.Linear(16, 1, **options))
    )


def batches(steps: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """x and t inside (64, 1), and x at the beginning (32, 1)."""
    rng = np.random.default_rng(1)
    for _ in range(steps):
        yield rng.uniform(-5, 5, (64, 1)), rng.uniform(0, 1, (64, 1)), rng.uniform(-5, 5, (32, 1))


def wave(x):
    """u0(x)."""
    return 0.5 / np.cosh(x / 2) ** 2


def by(y: Tensor, x: Tensor) -> Tensor:
    """dy/dx at each point, to be differentiated again."""
    return tensorgrad.grad(y.sum(), [x], create_graph=True)[0]


def losses(steps: int, compiled: bool = True) -> Losses:
    net = model(np.random.default_rng(0))
    optimiser = optim.Adam(net.parameters(), lr=3e-3)

    def step(x, t, x0, u0):
        x, t = x.detach().requires_grad_(), t.detach().requires_grad_()
        u = net(tensorgrad.concatenate([x, t], axis=1))
        u_x = by(u, x)
        r = by(u, t) + 6 * u * u_x + by(by(u_x, x), x)
        begin = net(tensorgrad.concatenate([x0, 0 * x0], axis=1))
        loss = (r**2).mean() + ((begin - u0) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    step = tensorgrad.compile(step) if compiled else step
    return {"loss": [step(*map(Tensor, (x, t, x0, wave(x0)))).item() for x, t, x0 in batches(steps)]}


if __name__ == "__main__":
    show(__doc__, losses, steps=2000)
