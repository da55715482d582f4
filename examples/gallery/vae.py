"""A variational autoencoder of scikit-learn's digits (Kingma and Welling 2014).

    python examples/gallery/vae.py

The encoder gives the mean m and the logarithm s of the variance of a code for each image, the decoder the logits z of the
pixels from a code m + e exp(s/2), e being normal noise that is drawn inside of the step. With pixels x in 0 .. 1 the loss is
the negative evidence lower bound, a mean over images,

    L = 1/n Σ_i [ Σ_j (softplus(z_ij) - x_ij z_ij)  +  1/2 Σ_k (exp(s_ik) + m_ik² - 1 - s_ik) ]
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pages import Losses, show

import tensorgrad
from tensorgrad import data, nn, optim
from tensorgrad.nn import functional as F

CODE = 4


class VAE(nn.Module):
    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 24, rng=rng), nn.ReLU(), nn.Linear(24, 2 * CODE, rng=rng))
        self.decoder = nn.Sequential(nn.Linear(CODE, 24, rng=rng), nn.ReLU(), nn.Linear(24, 64, rng=rng))

    def forward(self, x, rng):
        m, s = self.encoder(x).split(2, axis=1)
        e = tensorgrad.randn(m.shape, rng=rng)
        return self.decoder(m + e * (s / 2).exp()), m, s


def model(rng: np.random.Generator) -> nn.Module:
    return VAE(rng)


def batches(steps: int) -> Iterator[np.ndarray]:
    """Images (64, 64)."""
    x, rng = data.min_max(data.load_digits()[0]), np.random.default_rng(1)
    for _ in range(steps):
        yield x[rng.integers(len(x), size=64)]


def losses(steps: int, compiled: bool = True) -> Losses:
    net, noise = model(np.random.default_rng(0)), np.random.default_rng(2)
    optimiser = optim.Adam(net.parameters(), lr=3e-3)

    def step(x):
        z, m, s = net(x, noise)
        pixels = F.binary_cross_entropy_with_logits(z, x, reduction="sum") / len(x)
        code = 0.5 * (s.exp() + m**2 - 1 - s).sum() / len(x)
        loss = pixels + code
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss, pixels, code

    step = tensorgrad.compile(step) if compiled else step
    rows = [[part.item() for part in step(x)] for x in batches(steps)]
    return dict(zip(("loss", "pixels", "code"), map(list, zip(*rows, strict=True)), strict=True))


if __name__ == "__main__":
    show(__doc__, losses, steps=1000)
