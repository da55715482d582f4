"""Faults beside kinks: some entries stand on a kink, where much is allowed, and the gradient of others is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorgrad import Tensor
from tensorgrad.op import Op
from tests.rates.case import BOTH, DIRECTIONAL, FULL
from tests.rates.faults import Function, elementwise, normal, ops, rule, scaled, wrong

KINKS: dict[str, tuple[Callable[[Any], Any], float]] = {  # with the place of the kink
    "relu": (ops.relu, 0.0),
    "abs": (ops.abs, 0.0),
    "leaky_relu": (lambda x: ops.leaky_relu(x, 0.1), 0.0),
    "elu": (lambda x: ops.elu(x, 0.5), 0.0),
    "maximum": (lambda x: ops.maximum(x, 0.5), 0.5),
    "minimum": (lambda x: ops.minimum(x, x * 2 - 0.5), 0.5),
    "clip": (lambda x: ops.clip(x, -1.0, 5.0), -1.0),
}
FAULTS = {"1 %": 1.01, "10 %": 1.1, "twice": 2.0, "lost": 0.0}


def beside(name: str, share: float, faulty: float, f: float, n: int) -> Callable[[int], Function]:
    """A share of the entries on the kink; of the others, on the side where the slope is not 0, a share wrong by f."""
    fn, at = KINKS[name]

    def make(seed: int) -> Function:
        r = np.random.default_rng([seed, 3])
        x = at + r.choice([-1.0, 1.0], n) * r.uniform(0.2, 2, n)
        on = r.random(n) < share
        on[0] = share > 0
        x[on] = at
        sloped = np.flatnonzero(~on & (x > at))
        m = np.ones(n)
        m[r.permutation(sloped)[: max(1, round(faulty * n))]] = f
        return Function(lambda x: fn(scaled(x, m)).sum(), x)

    return make


n_of = {True: 60, False: 3_000}
for i, name in enumerate(KINKS):
    for j, share in enumerate((0.0, 0.01, 0.05, 0.3, 0.5)):
        small = (i + j) % 2 == 0
        word = list(FAULTS)[(i + 2 * j) % 4]
        faulty = (0.01, 0.1, 0.5)[(i + j) % 3] * (1 - share)
        wrong(
            f"{name}, {share:.0%} on it, {faulty:.1%} elsewhere: {word}", "beside kinks",
            make=beside(name, share, faulty, FAULTS[word], n_of[small]), modes=BOTH if small else (DIRECTIONAL,),
        )  # fmt: skip
for word, f in FAULTS.items():
    wrong(
        f"relu of 6,000, 30 % on it, 10 % elsewhere: {word}",
        "beside kinks",
        make=beside("relu", 0.3, 0.1, f, 6_000),
        modes=(DIRECTIONAL,),
    )
    wrong(
        f"relu of 6,000, 1 % on it, 1 % elsewhere: {word}",
        "beside kinks",
        make=beside("relu", 0.01, 0.01, f, 6_000),
        modes=(DIRECTIONAL,),
    )

# Ties

TIES = "beside ties"


def tied(s: int) -> np.ndarray:
    """Rows of four, the largest twice in every second one."""
    x = np.sort(normal(s, 6, 4), axis=1)
    x[::2, 2] = x[::2, 3]
    return x


for word, f in FAULTS.items():
    wrong(f"max of rows with ties, then a fault: {word}", TIES, lambda x, f=f: scaled((x.max(1) * 2).sin(), f), tied)
    others = np.where(np.arange(6) % 2, f, 1.0)
    wrong(f"max of rows with ties, wrong in those without: {word}", TIES, lambda x, m=others: scaled(x.max(1), m).sum(), tied)


def pooled(f: float) -> Callable[[Tensor], Tensor]:
    m = np.ones((1, 1, 2, 2))
    m[..., 1] = f
    return lambda x: scaled(ops.max_pool2d(x, 2), m).sum()


def image(s: int) -> np.ndarray:
    """The left windows have ties, the right ones none."""
    x = normal(s, 1, 1, 4, 4)
    x[..., 0:2] = 1.0
    return x


for word, f in FAULTS.items():
    wrong(f"max_pool2d with ties, wrong in other windows: {word}", TIES, pooled(f), image)
wrong("maximum of equals beside others, lost", TIES, lambda a, b: scaled(ops.maximum(a, b), np.array([1, 1, 0.0, 0])).sum(),
      lambda s: (np.array([1.0, 2, 3, 4]) + normal(s, 1), np.array([1.0, 2, 2.5, 3.5]) + normal(s, 1)))  # fmt: skip

# At the kink itself: outside of what the two sides allow

AT = "outside of the bracket at a kink"


def relu_at(v: float) -> Op:
    return elementwise(
        lambda xp, x: xp.where(x.real > 0, x, 0 * x), lambda y, x: (x > 0) * 1.0, lambda y, x: (x > 0) * 1.0 + (x == 0) * v
    )


def abs_at(v: float) -> Op:
    return elementwise(
        lambda xp, x: xp.where(x.real > 0, x, -x), lambda y, x: ops.sign(x), lambda y, x: ops.sign(x) + (x == 0) * v
    )


one_on = lambda s: np.array([1.0, 0.0, -1.0]) * (1 + s / 7)  # noqa: E731
for v in (2.0, -0.5, 1.1):
    wrong(f"relu' at 0 is {v}", AT, relu_at(v), one_on)
    wrong(f"abs' at 0 is {1.5 * v if abs(v) > 1 else -1.2:g}", AT, abs_at(1.5 * v if abs(v) > 1 else -1.2), one_on)
# each of these stays inside of its own bracket; what all entries on a kink make of one step together is not
wrong(
    "maximum of equals: both get all",
    AT,
    lambda a, b: both(a, b),
    lambda s: (np.array([1.0, 2]) + s, np.array([1.0, 2]) + s),
    modes=(FULL,),
)
both = rule(
    lambda xp, a, b: xp.where(a.real >= b.real, a, b), (lambda g, y, a, b: g * (a >= b), lambda g, y, a, b: g * (a < b)),
    (lambda g, y, a, b: g * (a >= b), lambda g, y, a, b: g * (a <= b)),
)  # fmt: skip
wrong(
    "max of ties: each gets all",
    AT,
    rule(
        lambda xp, x: x.max(-1),
        lambda g, y, x: g.reshape(-1, 1) * (ops.cumsum((x == y.reshape(-1, 1)) * 1.0, 1) == 1) * (x == y.reshape(-1, 1)),
        lambda g, y, x: g.reshape(-1, 1) * (x == y.reshape(-1, 1)),
    ),
    tied,
    modes=(FULL,),
)
wrong(
    "a kink's slope, at a smooth point near it",
    "near a kink",
    elementwise(
        lambda xp, x: xp.where(x.real > 0, x, 0.1 * x),
        lambda y, x: ops.where(x > 0, 1.0, 0.1),
        lambda y, x: ops.where(ops.abs(x) < 1e-4, 0.5, ops.where(x > 0, 1.0, 0.1)),
    ),
    lambda s: np.array([3e-5, -3e-5, 1.0, -1.0]) * (1 + s / 100),
)
wrong(
    "the other side's slope near a kink",
    "near a kink",
    elementwise(
        lambda xp, x: xp.where(x.real > 0, x, 0.1 * x),
        lambda y, x: ops.where(x > 0, 1.0, 0.1),
        lambda y, x: ops.where(x > -1e-6, 1.0, 0.1),
    ),
    lambda s: np.array([-3e-7, 1.0, -1.0]) * (1 + s / 100),
)
wrong("the threshold at 0.1, not 0", "near a kink", elementwise(
    lambda xp, x: xp.where(x.real > 0, x, 0 * x), lambda y, x: (x > 0) * 1.0, lambda y, x: (x > 0.1) * 1.0
), lambda s: np.array([0.05, 1.0, -1.0]) * (1 + s % 50 / 100))  # fmt: skip
