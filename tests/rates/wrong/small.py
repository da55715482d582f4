"""Small beside large: the gradient of a small part is wrong, in another output, input or entry than the large part's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorgrad import Tensor, nn
from tensorgrad.nn import functional as F
from tests.rates.case import BOTH, FULL
from tests.rates.faults import Model, away, hidden, normal, positive, scaled, wrong

SMALL = [10.0**-k for k in (2, 4, 6, 8, 10, 12, 14)]

for i, s in enumerate(SMALL):
    f = (2.0, 0.0, 1.01, 0.5)[i % 4]
    wrong(
        f"{s:g} of it, times {f:g}",
        "small beside large: another input",
        lambda a, b, s=s, f=f: a.tanh().sum() + scaled(b.tanh() * s, f).sum(),
        lambda n: (normal(n, 3), normal(n + 1, 3)),
    )
    wrong(
        f"{s:g} of it, times {f:g}",
        "small beside large: another output",
        lambda a, s=s, f=f: (a.tanh(), scaled(a.sin() * s, f)),
        lambda n: normal(n, 3),
    )
    # one weighted sum along one direction shows it only where it is beyond rtol of the whole
    wrong(
        f"{s:g} of it, times {f:g}",
        "small beside large: other entries",
        lambda a, s=s, f=f: a[:3].tanh().sum() + scaled(a[3:].tanh() * s, f).sum(),
        lambda n: normal(n, 6),
        modes=BOTH if s >= 1e-3 else (FULL,),
    )
    wrong(
        f"{s:g} of it, times {f:g}",
        "small beside large: entries of an output",
        lambda a, s=s, f=f: scaled(a.exp() * np.array([1, s, 1]), np.array([1, f, 1])),
        lambda n: normal(n, 3),
        modes=BOTH if s >= 1e-3 else (FULL,),
    )
for i, c in enumerate((1e3, 1e6, 1e9, 1e12)):
    f = (2.0, 0.0, 1.1, 0.5)[i]
    wrong(
        f"behind an offset of {c:g}, times {f:g}",
        "small beside large: an offset",
        lambda x, c=c, f=f: scaled(x.softplus(), f) + c - c,
        lambda n: normal(n, 3),
    )
    wrong(
        f"on top of {c:g}, times {f:g}",
        "small beside large: an offset",
        lambda x, c=c, f=f: scaled(x.sin(), f) + c,
        lambda n: normal(n, 3),
    )
wrong(
    "behind an offset, detached",
    "small beside large: an offset",
    lambda x: hidden(x).softplus() + 1e12 - 1e12 + 0 * x,
    lambda n: normal(n, 3, 4),
)


def penalty(size: float) -> Callable[[Tensor], Tensor]:
    return lambda w: (w.relu() * np.arange(1.0, 5)).sum() + size * (w * hidden(w)).sum()


for size in (1e-3, 1e-5, 1e-7, 1e-9):
    wrong(f"a penalty of {size:g} that is all dead units have", "small beside large: dead units", penalty(size),
          lambda n: np.array([1.0, -1, -2, 3]) * positive(n, 4), modes=BOTH if size >= 1e-3 else (FULL,))  # fmt: skip

# Inputs of different size

for c in (1e-100, 1e-20, 1e-8, 1e8, 1e20, 1e100):
    wrong(
        f"inputs of {c:g}, times 1.1",
        "inputs of any size",
        lambda x, c=c: scaled((x / c).sin(), 1.1),
        lambda n, c=c: c * normal(n, 3),
    )
wrong(
    "one input of 1e-100 beside ones",
    "inputs of any size",
    lambda a, b: scaled((a * 1e100).sin(), 1.1) + b.exp(),
    lambda n: (1e-100 * normal(n, 3), normal(n + 1, 3)),
)
wrong(
    "entries of 1e-8, 1 and 1e8",
    "inputs of any size",
    lambda x: scaled((x * np.array([1e8, 1, 1e-8])).sin(), np.array([1.1, 1, 1])),
    lambda n: np.array([1e-8, 1.0, 1e8]) * away(n, 3),
)
wrong(
    "entries of 1e-8, 1 and 1e8, the large one",
    "inputs of any size",
    lambda x: scaled((x * np.array([1e8, 1, 1e-8])).sin(), np.array([1, 1, 1.1])),
    lambda n: np.array([1e-8, 1.0, 1e8]) * away(n, 3),
    modes=(FULL,),
)
wrong("high frequencies", "inputs of any size", lambda x: scaled((x * 1e8).sin(), 1.1), lambda n: normal(n, 1, 4))
wrong(
    "a narrow spike",
    "inputs of any size",
    lambda x: scaled((-(((x - 1) * 1e6) ** 2)).exp(), 1.1),
    lambda n: np.array([1.0 + 3e-7 + n * 1e-8, 1.0 - 4e-7]),
)

# Deep networks whose first gradients are next to nothing

DEEP = "vanishing gradients"


class Deep(nn.Module):
    """Sigmoid layers, with a fault behind one of them."""

    def __init__(self, seed: int, layers: int, at: int, fault: Callable[[Any], Any]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(4, 4, rng=np.random.default_rng([seed, i])) for i in range(layers)])
        self.at, self.fault = at, fault

    def forward(self, x: Any) -> Any:
        for i, layer in enumerate(self.layers):
            x = layer(x).sigmoid()
            x = self.fault(x) if i == self.at else x
        return x


def deep(layers: int, at: int, fault: Callable[[Any], Any]) -> Callable[[int], Model]:
    return lambda s: Model(Deep(s, layers, at, fault), F.cross_entropy, normal(s, 5, 4), np.arange(5) % 4)


for layers in (4, 8, 12, 16):
    wrong(f"the first of {layers} sigmoid layers, lost", DEEP, make=deep(layers, 0, hidden))
    wrong(f"the first of {layers} sigmoid layers, twice", DEEP, make=deep(layers, 0, lambda x: scaled(x, 2.0)))
wrong("a layer in the middle of 12, 1.1", DEEP, make=deep(12, 6, lambda x: scaled(x, 1.1)))
wrong(
    "a chain of ten tenths, tripled",
    DEEP,
    lambda x, y: scaled(x.sin(), 3.0) * 1e-10 + y,
    lambda n: (normal(n, 3), normal(n + 1, 3)),
)
