"""Recurrent networks that foretell the next letter of a text: a simple one, an LSTM and a GRU.

    python examples/gallery/char_rnn.py

Letters are embedded, go through the recurrent layer, and each state gives the logits z of the letter after it. The loss is the
mean cross-entropy over all places of all sequences

    L = -1/(n t) Σ_i Σ_k log softmax(z_ik)[c_i,k+1]

SGD with momentum, all gradients together being scaled to a norm of 1/4 at most.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pages import Losses, show

import tensorgrad
from tensorgrad import nn, optim
from tensorgrad.nn import functional as F

TEXT = """a rule is a formula and its derivative. a graph is what a program has done, one node for each rule. from its end
to its beginning the graph is walked, and each rule says what its inputs have to do with the loss. what is written down once
can be drawn, fused, compiled and checked. a small thing that can be read is worth more than a large one that has to be
believed. """
LETTERS = sorted(set(TEXT))
KINDS = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}


class CharRNN(nn.Module):
    def __init__(self, kind: str, rng: np.random.Generator) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(LETTERS), 8, rng=rng)
        self.rnn = KINDS[kind](8, 16, batch_first=True, rng=rng)
        self.head = nn.Linear(16, len(LETTERS), rng=rng)

    def forward(self, letters):
        return self.head(self.rnn(self.embed(letters))[0])


def model(kind: str, rng: np.random.Generator) -> nn.Module:
    return CharRNN(kind, rng)


def batches(steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Letters (16, 12), as numbers, and those after each of them."""
    text, rng = np.array([LETTERS.index(c) for c in TEXT]), np.random.default_rng(1)
    for _ in range(steps):
        at = rng.integers(len(text) - 12, size=(16, 1)) + np.arange(13)
        yield text[at[:, :-1]], text[at[:, 1:]]


def losses(steps: int, compiled: bool = True) -> Losses:
    columns = {}
    for kind in KINDS:
        net = model(kind, np.random.default_rng(0))
        optimiser = optim.SGD(net.parameters(), lr=0.5, momentum=0.9)

        def step(x, y, net=net, optimiser=optimiser):
            loss = F.cross_entropy(net(x).reshape((-1, len(LETTERS))), y.reshape(-1))
            optimiser.zero_grad()
            loss.backward()
            optim.clip_grad_norm(net.parameters(), 0.25)
            optimiser.step()
            return loss

        step = tensorgrad.compile(step) if compiled else step
        columns[kind] = [step(x, y).item() for x, y in batches(steps)]
    return columns


if __name__ == "__main__":
    show(__doc__, losses, steps=400)
