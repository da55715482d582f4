"""Right functions at their kinks: every op that has one, on every mixture of sides, ties, several kinks in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorgrad.nn import functional as F
from tests.rates.faults import normal, ops, positive, right

KINK = "ok kink"
KINKS: dict[str, tuple[Callable[[Any], Any], tuple[float, ...]]] = {  # and where
    "relu": (lambda x: x.relu(), (0.0,)),
    "leaky_relu": (lambda x: ops.leaky_relu(x, 0.2), (0.0,)),
    "elu": (lambda x: ops.elu(x, 0.5), (0.0,)),
    "abs": (lambda x: x.abs(), (0.0,)),
    "clip": (lambda x: ops.clip(x, -1.0, 1.0), (-1.0, 1.0)),
    "hardtanh": (lambda x: ops.hardtanh(x, -1.0, 2.0), (-1.0, 2.0)),
    "maximum": (lambda x: ops.maximum(x, 1.0), (1.0,)),
    "minimum": (lambda x: ops.minimum(x, -x), (0.0,)),
    "maximum of a constant and x": (lambda x: ops.maximum(0.5, x * 2), (0.25,)),
    "clip from below": (lambda x: ops.clip(x, 0.5), (0.5,)),
    "clip from above": (lambda x: ops.clip(x, None, 0.5), (0.5,)),
    "where x > 0": (lambda x: ops.where(x > 0, x, x * 0.1), (0.0,)),
    "huber": (lambda x: F.huber_loss(x, np.zeros(x.shape), delta=1.0), ()),
    "l1": (lambda x: F.l1_loss(x, np.zeros(x.shape)), (0.0,)),
    "a mask by x.data > 0": (lambda x: x * (x.data > 0), (0.0,)),
    "a soft threshold": (lambda x: (x - 1).relu() - (-x - 1).relu(), (1.0, -1.0)),
    "relu6": (lambda x: ops.clip(x, 0, 6), (0.0, 6.0)),
    "hard sigmoid": (lambda x: ops.clip(x / 6 + 0.5, 0, 1), (-3.0, 3.0)),
    "a triangle": (lambda x: (1 - x.abs()).relu(), (0.0, 1.0, -1.0)),
}


def mixture(points: tuple[float, ...], n: int) -> Callable[[int], np.ndarray]:
    """n entries, at least one on a kink, the others on one, or on either side."""

    def draw(s: int) -> np.ndarray:
        r = np.random.default_rng([s, n])
        near = r.choice(points or (1.0,), n)
        return near + r.choice([0.0, 0.0, -1.0, 1.0], n) * r.uniform(0.3, 0.6, n) * (np.arange(n) > 0)

    return draw


for i, (name, (fn, points)) in enumerate(KINKS.items()):
    for n in (2, 5) if i % 2 else (3, 4):
        right(f"{name}, {n} entries", "on kinks", fn, mixture(points, n), KINK)
    right(f"{name}, summed", "on kinks, summed", lambda x, f=fn: f(x).sum(), mixture(points, 2 + i % 4), KINK)
    right(
        f"{name}, after a product",
        "on kinks, summed",
        lambda x, f=fn: (f(x) * np.linspace(-1, 2, x.size)).sum(),
        mixture(points, 2 + (i + 1) % 4),
        KINK,
    )
right(
    "1, -1 and 0.3 clipped",
    "on kinks, summed",
    lambda x: ops.clip(x, -1.0, 1.0).sum(),
    lambda s: np.array([1.0, -1.0, 0.3]),
    KINK,
)
right(
    "all bounds at once, of both sides",
    "on kinks, summed",
    lambda x: ops.clip(x, -1.0, 1.0).sum(),
    lambda s: np.array([1.0, -1.0, 1.0, -1.0, 1.0]),
    KINK,
)
right(
    "relu and minus relu at 0", "on kinks, summed", lambda x: (x[:2].relu() - x[2:].relu()).sum(), lambda s: np.zeros(4), KINK
)
right(
    "relu of 600, a third on the kink",
    "on kinks, summed",
    lambda x: x.relu().sum(),
    lambda s: normal(s, 600) * (np.arange(600) % 3 > 0),
    KINK,
)
right(
    "abs of 6,000, a third on the kink",
    "on kinks, summed",
    lambda x: x.abs().sum(),
    lambda s: normal(s, 6_000) * (np.arange(6_000) % 3 > 0),
    KINK,
    modes=("directional",),
)
right(
    "clip of 6,000, one on the bound",
    "on kinks, summed",
    lambda x: ops.clip(x, -5, 1.0).sum(),
    lambda s: np.where(np.arange(6_000) == 7, 1.0, normal(s, 6_000)),
    KINK,
    modes=("directional",),
)

# Ties

TIES = "ties"


def tied(s: int) -> np.ndarray:
    r = np.random.default_rng(s)
    return r.integers(0, 3, (4, 5)) * 1.0


right("max of rows", TIES, lambda x: x.max(1), tied, KINK)
right("max of columns", TIES, lambda x: x.max(0), tied, KINK)
right("max of everything", TIES, lambda x: x.max(), tied, KINK)
right("min of rows", TIES, lambda x: x.min(1), tied, KINK)
right("max minus min", TIES, lambda x: x.max(1) - x.min(1), tied, KINK)
right(
    "max_pool2d",
    TIES,
    lambda x: ops.max_pool2d(x, 2),
    lambda s: np.random.default_rng(s).integers(0, 2, (1, 2, 4, 4)) * 1.0,
    KINK,
)
right(
    "max_pool2d, overlapping",
    TIES,
    lambda x: ops.max_pool2d(x, 3, 1),
    lambda s: np.random.default_rng(s).integers(0, 2, (1, 1, 4, 4)) * 1.0,
    KINK,
)
right(
    "maximum of equals",
    TIES,
    lambda a, b: ops.maximum(a, b),
    lambda s: (np.array([1.0, 2, 3]) + s, np.array([1.0, 2, 4]) + s),
    KINK,
)
right(
    "minimum of equals",
    TIES,
    lambda a, b: ops.minimum(a, b).sum(),
    lambda s: (np.array([1.0, 2, 3]) + s, np.array([1.0, 2, 4]) + s),
    KINK,
)
right("maximum of x and x", TIES, lambda x: ops.maximum(x, x), lambda s: normal(s, 3), KINK)
right(
    "maximum of three equals",
    TIES,
    lambda a, b: ops.maximum(ops.maximum(a, b), a * b),
    lambda s: (np.ones(2), np.ones(2)),
    KINK,
)
right("ties of a hinge loss", TIES, lambda x: (1 - x).relu().max(1).sum(), lambda s: np.where(tied(s) > 1, 1.0, 0.0), KINK)
right("constant rows", TIES, lambda x: x.max(1) * 2, lambda s: np.ones((2, 3)), KINK)
right("softmax of ties", TIES, lambda x: x.softmax(-1), tied)
right("logsumexp of ties", TIES, lambda x: x.logsumexp(1), tied)
right(
    "prod with a zero", TIES, lambda x: x.prod(1), lambda s: np.where(np.arange(8).reshape(2, 4) == s % 8, 0.0, normal(s, 2, 4))
)
right("prod with two zeros", TIES, lambda x: x.prod(), lambda s: np.array([0.0, 2.0, 0.0, 3.0]))

# Several in one place

SEVERAL = "several kinks in one place"
right(
    "relu of a product with zeros",
    SEVERAL,
    lambda x, w: ((x @ w).relu() * normal(3, 3, 5)).sum(),
    lambda s: (np.zeros((3, 4)), normal(s, 4, 5)),
    "ok kink precision",
)
right("abs of a product with zeros", SEVERAL, lambda x, w: (x @ w).abs(), lambda s: (np.zeros((2, 3)), normal(s, 3, 2)), KINK)
right("|x| + relu(x) at 0", SEVERAL, lambda x: x.abs() + x.relu(), lambda s: np.array([0.0, 1.0, -1.0]), KINK)
right("relu of relu", SEVERAL, lambda x: (x.relu() - 0.0).relu(), lambda s: np.array([0.0, 1.0, -1.0]), KINK)
right("relu(x) relu(x) at 0", SEVERAL, lambda x: x.relu() * x.relu(), lambda s: np.array([0.0, 1.0, -1.0]), KINK)
right("x |x| at 0", SEVERAL, lambda x: x * x.abs(), lambda s: np.array([0.0, 1.0, -1.0]), KINK)
right(
    "a network of dead units on the kink",
    SEVERAL,
    lambda x, w, b: ((x @ w + b).relu() @ normal(5, 3, 2)).tanh(),
    lambda s: (np.zeros((2, 2)), normal(s, 2, 3), np.zeros(3)),
    "ok kink precision",
)
right("two inputs that meet on the kink", SEVERAL, lambda a, b: (a - b).relu(), lambda s: (normal(s, 3), normal(s, 3)), KINK)
right(
    "three inputs that meet on the kink",
    SEVERAL,
    lambda a, b, c: (a + b - c).abs(),
    lambda s: (normal(s, 3), np.ones(3), normal(s, 3) + np.ones(3)),
    KINK,
)
right(
    "a bias of zeros and inputs of zeros", SEVERAL, lambda b: (np.zeros((4, 3)) + b).relu().sum(), lambda s: np.zeros(3), KINK
)
right(
    "total variation of a flat signal",
    SEVERAL,
    lambda x: (x[1:] - x[:-1]).abs().sum(),
    lambda s: np.array([1.0, 1, 1, 2, 2]) * (s + 1),
    KINK,
)
right(
    "a lasso at zero weights",
    SEVERAL,
    lambda w: ((normal(1, 4, 3) @ w - 1) ** 2).sum() + 0.5 * w.abs().sum(),
    lambda s: np.zeros(3),
    KINK,
)
right("a max of relus", SEVERAL, lambda x: x.relu().max(), lambda s: np.array([0.0, 0.0, -1.0]), KINK)

# Norms, roots and distances at 0

ZERO = "norms and deviations at 0"
right("norm at 0", ZERO, lambda x: ops.norm(x), lambda s: np.zeros(3), KINK)
right("norm of rows, one at 0", ZERO, lambda x: ops.norm(x, axis=1), lambda s: np.array([[0.0, 0], [1, 2]]) * (s + 1), KINK)
right("norm at 1e-8", ZERO, lambda x: ops.norm(x), lambda s: 1e-8 * normal(s, 3))
right("norm at 1e-100", ZERO, lambda x: ops.norm(x), lambda s: 1e-100 * normal(s, 3))
right("hypot at (0, 0)", ZERO, lambda a, b: ops.hypot(a, b), lambda s: (np.array([0.0, 1.0]), np.array([0.0, 2.0])), KINK)
right("std of equals", ZERO, lambda x: x.std(1), lambda s: np.array([[1.0, 1, 1], [1, 2, 4]]), "ok kink precision")
right("var of equals", ZERO, lambda x: x.var(1), lambda s: np.array([[1.0, 1, 1], [1, 2, 4]]))
right("squared norm at 0", ZERO, lambda x: (x * x).sum(), lambda s: np.zeros(3))
for name, at in (("away from 0", lambda s: normal(s, 3)), ("at 1e-4", lambda s: 1e-4 * normal(s, 3))):
    right(f"norm {name}, order 2", ZERO, lambda x: ops.norm(x), at, order=2)
right(
    "norm at 0, order 2",
    ZERO,
    lambda x: ops.norm(x),
    lambda s: np.zeros(3),
    "ok kink precision non-finite",
    order=2,
    known="the Hessian has no limit there",
)
right(
    "norm of rows, one at 0, order 2",
    ZERO,
    lambda x: ops.norm(x, axis=1),
    lambda s: np.array([[0.0, 0], [1, 2]]),
    "ok kink precision non-finite",
    order=2,
)

# Jumps and flat functions; near a kink, but not on it

FLAT = "jumps, plateaus, near a kink"
right("round", FLAT, lambda x: ops.round(x) + x, lambda s: np.array([0.2, 1.7, -2.3]))
right("sign", FLAT, lambda x: ops.sign(x) * x, lambda s: np.array([0.2, 1.7, -2.3]) * (1 + s))
right("floor between", FLAT, lambda x: ops.floor(x) * x, lambda s: np.array([0.5, 1.7, -2.3]))
right("x % 1", FLAT, lambda x: (x % 1) ** 2, lambda s: np.array([0.5, 1.7, -2.3]))
for at in (1e-3, 1e-6, 1e-9, 1e-12):
    said = "ok" if at > 1e-5 else KINK  # any step that values can be told by is larger
    right(
        f"relu, {at:g} from its kink",
        FLAT,
        lambda x: x.relu(),
        lambda s, at=at: at * np.array([1.0, -1.0, 2.0]) * (1 + s),
        said,
    )
    right(
        f"relu, {at:g} from its kink, beside ones",
        FLAT,
        lambda x: (x.relu() * np.array([1.0, 2, 3])).sum(),
        lambda s, at=at: np.array([at, -at, 1.0]) * (1 + s),
        said,
    )
    right(
        f"abs(x - 1), {at:g} from its kink",
        FLAT,
        lambda x: (x - 1).abs(),
        lambda s, at=at: 1 + at * np.array([1.0, -1.0, 2.0]) * (1 + s),
        said,
    )
right("max of near ties", FLAT, lambda x: x.max(1), lambda s: np.array([[1.0, 1 + 1e-9, 0], [2, 2 - 1e-12, 1]]), KINK)
right("a plateau between two kinks", FLAT, lambda x: ops.clip(x, -1e-6, 1e-6), lambda s: np.array([0.0, 5e-7, 1.0]))
right("relu, order 2", FLAT, lambda x: x.relu() ** 3, lambda s: positive(s, 3), order=2)
right("relu at 0, order 2", FLAT, lambda x: x.relu(), lambda s: np.array([0.0, 1, -1]), KINK, order=2)
right("abs at 0, order 2", FLAT, lambda x: x.abs() * x, lambda s: np.array([0.0, 1, -1]), KINK, order=2)
right("clip at a bound, order 2", FLAT, lambda x: ops.clip(x, -1, 1) * x, lambda s: np.array([1.0, -1, 0.3]), KINK, order=2)
right("max of ties, order 2", FLAT, lambda x: x.max(1) ** 2, tied, KINK, order=2)
right(
    "maximum of equals, order 2", FLAT, lambda a, b: ops.maximum(a, b) ** 2, lambda s: (np.ones(2), np.ones(2)), KINK, order=2
)
