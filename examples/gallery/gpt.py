"""A small GPT: attention that looks back only, weights of the first and the last layer tied, a warm-up, and text made by it.

    python examples/gallery/gpt.py

The logits of the letter after place k are z_k = h_k Eᵀ, E (letters, d) being the embedding that the letters come in by, and h
the last norm of two blocks x + attention(norm(x)), x + mlp(norm(x)). The loss is the mean cross-entropy over all places

    L = -1/(n t) Σ_i Σ_k log softmax(z_ik)[c_i,k+1]

AdamW, gradients scaled to a norm of 1 at most; the rate rises for ten steps, and then falls as a cosine.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pages import Losses, show

import tensorgrad
from tensorgrad import nn, no_grad, optim
from tensorgrad.nn import functional as F

TEXT = "two and two are four. three and three are six. four and four are eight. five and five are ten. one and one are two. "
LETTERS, T, D = sorted(set(TEXT)), 16, 16


class GPT(nn.Module):
    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(len(LETTERS), D, rng=rng), nn.Embedding(T, D, rng=rng)
        self.letters.weight.data *= 0.2  # they give the logits, too, which are to begin small
        options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True, "rng": rng}
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(D, 2, 2 * D, **options) for _ in range(2))
        self.norm = nn.LayerNorm(D)

    def forward(self, x):
        h = self.letters(x) + self.places(np.arange(x.shape[1]))
        for block in self.blocks:
            h = block(h, is_causal=True)
        return self.norm(h) @ self.letters.weight.T


def model(rng: np.random.Generator) -> nn.Module:
    return GPT(rng)


def batches(steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Letters (16, T), as numbers, and those after each of them."""
    text, rng = np.array([LETTERS.index(c) for c in TEXT]), np.random.default_rng(1)
    for _ in range(steps):
        at = rng.integers(len(text) - T, size=(16, 1)) + np.arange(T + 1)
        yield text[at[:, :-1]], text[at[:, 1:]]


def losses(steps: int, compiled: bool = True) -> Losses:
    net = model(np.random.default_rng(0))
    optimiser = optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.01)
    schedule = optim.Warmup(optimiser, 10, then=optim.CosineLR(optimiser, 400, per="batch"))

    def step(x, y):
        loss = F.cross_entropy(net(x).reshape((-1, len(LETTERS))), y.reshape(-1))
        optimiser.zero_grad()
        loss.backward()
        optim.clip_grad_norm(net.parameters(), 1.0)
        optimiser.step()
        return loss

    step = tensorgrad.compile(step) if compiled else step
    column = []
    for x, y in batches(steps):
        column.append(step(x, y).item())
        schedule.step()
    if steps >= 100:
        print(generate(net, "three and ", 40))
    return {"cross-entropy": column}


@no_grad()
def generate(net: nn.Module, text: str, count: int) -> str:
    """The text, and so many letters more, the likeliest each time."""
    for _ in range(count):
        logits = net(np.array([[LETTERS.index(c) for c in text[-T:]]]))
        text += LETTERS[int(logits.numpy()[0, -1].argmax())]
    return text


if __name__ == "__main__":
    show(__doc__, losses, steps=400)
