"""Wrong only somewhere or sometimes: in a region, in rare entries, at a scale, at a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorgrad import Tensor
from tests.rates.case import DIRECTIONAL
from tests.rates.faults import (
    MAPS,
    Function,
    Switch,
    away,
    data,
    elementwise,
    normal,
    ops,
    positive,
    rule,
    scaled,
    wrong,
)


def where(condition: Callable[[np.ndarray], Any], f: float, name: str) -> Any:
    """The map of that name, f times its derivative where the condition holds of x."""
    forward, d = MAPS[name]
    return elementwise(forward, d, lambda y, x: d(y, x) * np.where(condition(data(x)), f, 1.0))


# In a region; the point has entries there

REGION = "only in a region"


def around_one(s: int) -> np.ndarray:
    return np.array([0.2, 0.7, 1.4, 2.1]) + 0.1 * normal(s, 4)


wrong("above 1, twice", REGION, where(lambda x: x > 1.05, 2.0, "square"), around_one)
wrong("above 1, 1 %", REGION, where(lambda x: x > 1.05, 1.01, "tanh"), around_one)
wrong("between 0.5 and 1, lost", REGION, where(lambda x: (x > 0.45) & (x < 1.05), 0.0, "sin"), around_one)
wrong(
    "negative entries, the sign",
    REGION,
    where(lambda x: x < 0, -1.0, "cube"),
    lambda s: np.abs(away(s, 6)) * np.array([1, 1, 1, 1, 1, -1]),
)
wrong(
    "the last entry",
    REGION,
    where(lambda x: np.arange(x.size).reshape(x.shape) == x.size - 1, 1.1, "exp"),
    lambda s: normal(s, 5),
)
wrong(
    "the first row",
    REGION,
    lambda x: scaled(x.sin(), np.where(np.arange(3) == 0, 1.1, 1.0)[:, None]),
    lambda s: normal(s, 3, 2),
)
wrong("the diagonal", REGION, lambda x: scaled(x @ x, 1 + np.eye(3)), lambda s: normal(s, 3, 3))
wrong(
    "where saturated",
    REGION,
    where(lambda x: np.abs(x) > 2, 0.0, "tanh"),
    lambda s: np.array([0.3, 2.5, -2.2]) + 0.1 * normal(s, 3),
)
wrong("above the diagonal", REGION, lambda x: scaled(x.exp(), 1 + 0.1 * np.triu(np.ones((3, 3)), 1)), lambda s: normal(s, 3, 3))

# One entry of many

RARE = "rare entries"


def one_of(n: int, f: float, k: int, kind: str) -> Callable[[int], Function]:
    def make(seed: int) -> Function:
        m = np.ones(n)
        at = (k + 37 * seed) % n
        m[at] = f
        x = normal(seed, n)
        x[at] = 1.0
        if kind == "rule":
            forward, d = MAPS["square"]
            op = elementwise(forward, d, lambda y, x: d(y, x) * m)
            return Function(lambda x: op(x).sum(), x)
        return Function(lambda x: scaled(x * x, m).sum(), x)

    return make


for n, f in ((600, 1.01), (600, 0.0)):
    for kind in ("rule", "outside"):
        wrong(f"one of {n} times {f:g}, {kind}", RARE, make=one_of(n, f, 123, kind))
for n, f in ((6_000, 1.01), (6_000, 2.0), (100_000, 1.01), (100_000, 0.0)):
    for kind in ("rule", "outside"):
        wrong(f"one of {n:,} times {f:g}, {kind}", RARE, make=one_of(n, f, 3_333, kind), modes=(DIRECTIONAL,))

# At a scale

SCALE = "only at a scale"
wrong("below 1e-6, lost", SCALE, where(lambda x: np.abs(x) < 1e-6, 0.0, "sin"), lambda s: 1e-8 * away(s, 4))
wrong(
    "below 1e-6, lost, beside ones",
    SCALE,
    where(lambda x: np.abs(x) < 1e-6, 0.0, "sin"),
    lambda s: away(s, 4) * np.array([1, 1e-8, 1, 1e-9]),
)
wrong("above 1e6, doubled", SCALE, where(lambda x: np.abs(x) > 1e6, 2.0, "atan"), lambda s: 1e8 * away(s, 4))
wrong(
    "above 1e6, doubled, beside ones",
    SCALE,
    lambda x: where(lambda x: np.abs(x) > 1e6, 2.0, "square")(x),
    lambda s: away(s, 3) * np.array([1, 1e8, 1]),
)
wrong(
    "a division guarded by an epsilon",
    SCALE,
    elementwise(lambda xp, x: 1 / x, lambda y, x: -1 / (x * x), lambda y, x: -1 / (x * x + 1e-8)),
    lambda s: 1e-3 * away(s, 4),
)
wrong(
    "a root guarded by an epsilon",
    SCALE,
    elementwise(lambda xp, x: xp.sqrt(x), lambda y, x: 0.5 / y, lambda y, x: 0.5 / (y + 1e-4)),
    lambda s: 1e-2 * positive(s, 4),
)
wrong(
    "a logarithm guarded by an epsilon",
    SCALE,
    elementwise(lambda xp, x: xp.log(x), lambda y, x: 1 / x, lambda y, x: 1 / (x + 1e-7)),
    lambda s: 1e-4 * positive(s, 4),
)
wrong(
    "a norm guarded by an epsilon",
    SCALE,
    rule(
        lambda xp, x: xp.sqrt((x * x).sum(-1)),
        lambda g, y, x: x * (g / y).reshape(-1, 1),
        lambda g, y, x: x * (g / (y + 1e-3)).reshape(-1, 1),
    ),
    lambda s: normal(s, 3, 4),
)
wrong(
    "a gradient clipped to 1",
    SCALE,
    rule(lambda xp, x: xp.exp(3 * x), lambda g, y, x: 3 * g * y, lambda g, y, x: ops.clip(3 * g * y, -1, 1)),
    lambda s: positive(s, 3),
)

# At a call

STATE = "state: at some calls"


class Counted:
    """Backward passes of one function, counted."""

    def __init__(self, fault: Callable[[int], float]) -> None:
        self.n, self.fault = 0, fault
        self.op = rule(MAPS["exp"][0], lambda g, y, x: g * y, self.backward)

    def backward(self, g: Any, y: Any, x: Any) -> Any:
        self.n += 1
        return g * y * self.fault(self.n)


def counted(fault: Callable[[int], float]) -> Callable[[int], Function]:
    return lambda seed: Function(Counted(fault).op, normal(seed, 3))


wrong("the gradient at odd calls", STATE, make=counted(lambda n: 1.1 if n % 2 else 1.0))
wrong("the gradient at even calls", STATE, make=counted(lambda n: 1.0 if n % 2 else 1.1))
wrong("the gradient at all calls but the first", STATE, make=counted(lambda n: 2.0 if n > 1 else 1.0))
wrong("the gradient at the first call", STATE, make=counted(lambda n: 2.0 if n == 1 else 1.0))
wrong("the gradient, a little more at each call", STATE, make=counted(lambda n: 1 + 1e-4 * n))


def drifting(seed: int) -> Function:
    calls = [0]

    def fn(x: Tensor) -> Tensor:
        calls[0] += not Switch.mended
        return x.sin() * (1 + 1e-3 * calls[0])

    return Function(fn, normal(seed, 3))


wrong(
    "the value, a little more at each call", STATE, make=drifting, known="a function of the number of the call has no gradient"
)


def noisy(seed: int) -> Function:
    r = np.random.default_rng(seed)
    return Function(lambda x: x * (np.ones(3) if Switch.mended else r.normal(size=3)), normal(seed, 3))


wrong("a mask that is drawn anew", STATE, make=noisy)


def noisy_gradient(seed: int) -> Function:
    r = np.random.default_rng(seed)
    op = rule(MAPS["exp"][0], lambda g, y, x: g * y, lambda g, y, x: g * y * r.uniform(0.9, 1.1, y.shape))
    return Function(op, normal(seed, 3))


wrong("noise on the gradient", STATE, make=noisy_gradient)

SECOND = "only the second use"


class Kept:
    """A rule that keeps what it needs on itself: a second use of it writes over that of the first."""

    def __init__(self) -> None:
        self.x: Any = None
        self.op = rule(self.forward, lambda g, y, x: 2 * g * x, lambda g, y, x: 2 * g * self.x)

    def forward(self, xp: Any, x: Any) -> Any:
        self.x = np.array(x)
        return x * x


def used_twice(seed: int) -> Function:
    op = Kept().op
    return Function(lambda x: op(op(x) + 1), normal(seed, 3))


wrong("the input kept on the op, used twice", SECOND, make=used_twice)
wrong("the input kept on the op, for two inputs", SECOND, make=lambda seed: two_inputs(seed))


def two_inputs(seed: int) -> Function:
    op = Kept().op
    return Function(lambda a, b: op(a) * op(b), (normal(seed, 3), normal(seed + 3, 3)))


def uses(seed: int) -> Function:
    """Of the uses within one call of the function, the second is wrong."""
    n = [0]

    def at(x: Tensor) -> Tensor:
        n[0] += 1
        return scaled(x.tanh(), 1.0 if n[0] % 3 else 1.1)

    return Function(lambda x: at(at(at(x))), normal(seed, 3))


wrong("the third of three uses in one function", SECOND, make=uses)


def its_own_buffer(seed: int) -> Function:
    buffer = np.empty(3)

    def backward(g: Any, y: Any, x: Any) -> Any:
        if isinstance(g, Tensor):
            return g * y
        np.multiply(g, y, out=buffer)
        return buffer

    op = rule(MAPS["exp"][0], lambda g, y, x: g * y, backward)

    def fn(x: Tensor) -> Tensor:
        h = x * 0.5  # what the first use contributes to its gradient is written over by the second
        return op(h) * op(h).sin()

    return Function(fn, normal(seed, 3))


wrong("gradients in one buffer of the rule's own", SECOND, make=its_own_buffer)
