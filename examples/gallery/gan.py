"""A generative adversarial network whose points learn to lie on a ring (Goodfellow et al. 2014).

    python examples/gallery/gan.py

The generator G makes points (2) of noise e (2), the discriminator D gives the logit that a point is real. They learn in turns,
by the losses of the discriminator, with G(e) detached, and of the generator, with D's parameters frozen,

    L_D = 1/n Σ_i [ softplus(-D(x_i)) + softplus(D(G(e_i))) ]        L_G = 1/n Σ_i softplus(-D(G(e_i)))
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pages import Losses, show

import tensorgrad
from tensorgrad import nn, optim


def model(sizes: tuple[int, int, int], rng: np.random.Generator) -> nn.Module:
    a, b, c = sizes
    return nn.Sequential(
        *(nn.Linear(a, b, rng=rng), nn.LeakyReLU(0.2), nn.Linear(b, b, rng=rng), nn.LeakyReLU(0.2), nn.Linear(b, c, rng=rng))
    )


def batches(steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Points of the ring (64, 2), and noise (64, 2)."""
    rng = np.random.default_rng(1)
    for _ in range(steps):
        angle = rng.uniform(0, 2 * np.pi, (64, 1))
        radius = rng.normal(1, 0.05, (64, 1))
        ring = radius * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
        yield ring.astype("f"), rng.normal(size=(64, 2)).astype("f")


def losses(steps: int, compiled: bool = True) -> Losses:
    rng = np.random.default_rng(0)
    generator, discriminator = model((2, 24, 2), rng), model((2, 24, 1), rng)
    of_generator = optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    of_discriminator = optim.Adam(discriminator.parameters(), lr=1e-3, betas=(0.5, 0.999))

    def step_of_discriminator(real, noise):
        made = generator(noise).detach()
        loss = ((-discriminator(real)).softplus() + discriminator(made).softplus()).mean()
        of_discriminator.zero_grad()
        loss.backward()
        of_discriminator.step()
        return loss

    def step_of_generator(noise):
        discriminator.requires_grad_(False)
        loss = (-discriminator(generator(noise))).softplus().mean()
        of_generator.zero_grad()
        loss.backward()
        of_generator.step()
        discriminator.requires_grad_(True)
        return loss

    if compiled:
        step_of_discriminator = tensorgrad.compile(step_of_discriminator)
        step_of_generator = tensorgrad.compile(step_of_generator)
    rows = [(step_of_discriminator(x, e).item(), step_of_generator(e).item()) for x, e in batches(steps)]
    return dict(zip(("discriminator", "generator"), map(list, zip(*rows, strict=True)), strict=True))


if __name__ == "__main__":
    show(__doc__, losses, steps=2000)
