"""Ratings of films by users, as products of what is learnt about each: matrix factorisation.

    python examples/gallery/matrix_factorisation.py

A rating of film j by user i is foretold as p = u_i · f_j + a_i + b_j; the rows of the four tables are embeddings. The loss is
the squared error with a penalty on the rows that are used

    L = 1/n Σ (r - p)²  +  λ/n Σ (|u_i|² + |f_j|²),     λ = 0.01

The ratings are made up, of two hidden tastes and noise.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pages import Losses, show

import tensorgrad
from tensorgrad import nn, optim
from tensorgrad.nn import functional as F

USERS, FILMS, D = 60, 40, 4


class Factors(nn.Module):
    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.user, self.film = nn.Embedding(USERS, D, rng=rng), nn.Embedding(FILMS, D, rng=rng)
        self.user_bias, self.film_bias = nn.Embedding(USERS, 1, rng=rng), nn.Embedding(FILMS, 1, rng=rng)

    def forward(self, i, j):
        u, f = self.user(i), self.film(j)
        p = (u * f).sum(axis=1) + (self.user_bias(i) + self.film_bias(j)).squeeze(1)
        return p, (u**2 + f**2).sum(axis=1).mean()


def model(rng: np.random.Generator) -> nn.Module:
    return Factors(rng)


def batches(steps: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Users, films and ratings, (128) each."""
    rng = np.random.default_rng(1)
    ratings = rng.normal(size=(USERS, 2)) @ rng.normal(size=(2, FILMS)) + 3
    for _ in range(steps):
        i, j = rng.integers(USERS, size=128), rng.integers(FILMS, size=128)
        yield i, j, (ratings[i, j] + rng.normal(0, 0.1, 128)).astype("f")


def losses(steps: int, compiled: bool = True) -> Losses:
    net = model(np.random.default_rng(0))
    optimiser = optim.Adam(net.parameters(), lr=0.02)

    def step(i, j, r):
        p, size = net(i, j)
        loss = F.mse_loss(p, r) + 0.01 * size
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    step = tensorgrad.compile(step) if compiled else step
    return {"loss": [step(i, j, r).item() for i, j, r in batches(steps)]}


if __name__ == "__main__":
    show(__doc__, losses, steps=1000)
