"""Right functions of inputs of every scale: tiny, huge, mixed in one array, close to each other, high frequencies, narrow
spikes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.rates.faults import away, normal, ops, positive, right

SMOOTH: dict[str, Callable[[Any], Any]] = {
    "sin": lambda x: x.sin(),
    "tanh": lambda x: x.tanh(),
    "exp": lambda x: x.exp(),
    "square": lambda x: x * x,
    "atan": lambda x: x.arctan(),
    "sigmoid": lambda x: x.sigmoid(),
}
SCALES = (1e-100, 1e-30, 1e-12, 1e-6, 1e6, 1e12, 1e30, 1e100)

# f(c x) at x0 / c, alone, beside c = 1, and all in one array

for i, c in enumerate(SCALES):
    names = list(SMOOTH)
    for name in (names[i % 6], names[(i + 3) % 6]):
        right(
            f"{name}({c:g} x) at 1/{c:g}",
            "f(c x) at x0 / c, alone",
            lambda x, c=c, f=SMOOTH[name]: f(x * c),
            lambda s, c=c: normal(s, 3) / c,
        )
    name = names[(i + 1) % 6]
    right(
        f"{name}({c:g} x) at 1/{c:g} beside 1",
        "f(c x) at x0 / c, mixed in one array",
        lambda x, c=c, f=SMOOTH[name]: f(x * np.array([c, 1, c])),
        lambda s, c=c: away(s, 3) / np.array([c, 1, c]),
    )
right(
    "from 1e-100 to 1e100",
    "f(c x) at x0 / c, mixed in one array",
    lambda x: (x * np.array(SCALES)).sin(),
    lambda s: away(s, 8) / np.array(SCALES),
)
right(
    "from 1e-100 to 1e100, summed",
    "f(c x) at x0 / c, mixed in one array",
    lambda x: (x * np.array(SCALES)).sin().sum(),
    lambda s: away(s, 8) / np.array(SCALES),
)
right(
    "1e-8, 1, 1e8",
    "f(c x) at x0 / c, mixed in one array",
    lambda x: (x * np.array([1e8, 1, 1e-8])).sin(),
    lambda s: away(s, 3) * np.array([1e-8, 1.0, 1e8]),
)
right(
    "two inputs, 1e-100 and 1",
    "f(c x) at x0 / c, mixed in one array",
    lambda a, b: (a * 1e100 + b).sin(),
    lambda s: (1e-100 * normal(s, 3), normal(s + 1, 3)),
)
right(
    "two inputs, 1e-9 and 1e9",
    "f(c x) at x0 / c, mixed in one array",
    lambda a, b: (a * b).exp(),
    lambda s: (1e-9 * normal(s, 3), 1e9 * normal(s + 1, 3)),
)

# Logarithms, roots and powers near 0

NEAR = "logarithms, roots, powers near 0"
for c in (1e-12, 1e-30, 1e-100, 1e-300):
    right(f"log at {c:g} and 1", NEAR, lambda x: x.log(), lambda s, c=c: positive(s, 2) * np.array([c, 1.0]))
    right(f"sqrt at {c:g} and 1", NEAR, lambda x: x.sqrt(), lambda s, c=c: positive(s, 2) * np.array([c, 1.0]))
    right(f"x ** 0.3 at {c:g} and 1", NEAR, lambda x: x**0.3, lambda s, c=c: positive(s, 2) * np.array([c, 1.0]))
right("1/x at 1e-12 and 1", NEAR, lambda x: 1 / x, lambda s: away(s, 2) * np.array([1e-12, 1.0]))
right("1/x at 1e-100", NEAR, lambda x: 1 / x, lambda s: away(s, 2) * 1e-100)
right("x log x at 1e-12", NEAR, lambda x: x * x.log(), lambda s: positive(s, 3) * np.array([1e-12, 1e-6, 1.0]))
right("log1p near -1", NEAR, lambda x: x.log1p(), lambda s: np.array([-1 + 1e-9, -1 + 1e-6, 0.5]) + 1e-10 * positive(s, 3))
right("arcsin near 1", NEAR, lambda x: x.arcsin(), lambda s: 1 - positive(s, 3) * np.array([1e-9, 1e-6, 0.1]))
right(
    "power of tensors near 0",
    NEAR,
    lambda a, b: a**b,
    lambda s: (positive(s, 3) * np.array([1e-12, 1e-3, 1.0]), positive(s + 1, 3)),
)
right("logsigmoid far out", NEAR, lambda x: x.logsigmoid(), lambda s: np.array([-700.0, -30.0, 30.0]) + normal(s, 3))
right(
    "log of a softmax that underflows",
    NEAR,
    lambda z: z.log_softmax(-1),
    lambda s: np.array([[0.0, -800, 5]]) + normal(s, 1, 3),
)
for p in (1.5, 2.5, 3.5):
    right(
        f"x ** {p} at 0",
        "defined on one side only",
        lambda x, p=p: x**p,
        lambda s: np.array([0.0, 1.0]) + np.array([0, 0.1 * s]),
        "ok kink",
    )
right("x ** 2 at 0", NEAR, lambda x: x**2, lambda s: np.array([0.0, 1.0, -1.0]))
right("x ** 3 at 0", NEAR, lambda x: x**3, lambda s: np.array([0.0, 1.0, -1.0]))
right(
    "x ** 1.5 at 0, summed",
    "defined on one side only",
    lambda x: (x**1.5).sum(),
    lambda s: np.array([0.0, 1.0, 0.0]),
    "ok kink",
)
right("sqrt(x) x at 0", "defined on one side only", lambda x: x**1.25 * x, lambda s: np.array([0.0, 1.0, 0.5]), "ok kink")
for order, name in ((2, "log"), (2, "sqrt")):
    right(
        f"{name} at 1e-12 and 1, order 2",
        NEAR,
        lambda x, name=name: getattr(x, name)(),
        lambda s: positive(s, 2) * np.array([1e-12, 1.0]),
        order=order,
    )

# Numbers close to each other: what is left of them is small beside them

CLOSE = "near-equal values"
for offset, spread in ((1.0, 1e-3), (1e3, 1e-6), (1e6, 1e-3), (1e8, 1.0)):
    at = lambda s, a=offset, b=spread: a + b * normal(s, 3, 4)  # noqa: E731
    right(
        f"std of {spread:g} around {offset:g}", CLOSE, lambda x: x.std(), at, "ok precision" if spread / offset < 1e-7 else "ok"
    )
    right(
        f"var of {spread:g} around {offset:g}, by rows",
        CLOSE,
        lambda x: x.var(1),
        at,
        "ok precision" if spread / offset < 1e-7 else "ok",
    )
    right(f"normalised {spread:g} around {offset:g}", CLOSE, lambda x: (x - x.mean(0)) / x.std(0), at, "ok precision")
right(
    "a difference of neighbours, squared",
    CLOSE,
    lambda a, b: (a - b) ** 2,
    lambda s: (1 + normal(s, 3), 1 + normal(s, 3) + 1e-7 * normal(s + 1, 3)),
)
right("1 - cos x near 0", CLOSE, lambda x: 1 - x.cos(), lambda s: 1e-5 * away(s, 3), "ok precision")
right("a large offset", "large offsets", lambda x: x.softplus() + 1e6, lambda s: normal(s, 3, 2))
right("an offset of 1e12", "large offsets", lambda x: x.sin() + 1e12, lambda s: normal(s, 3), "ok precision")
right(
    "an offset of 1e12, taken off again",
    "large offsets",
    lambda x: x.softplus() + 1e12 - 1e12,
    lambda s: normal(s, 3),
    "ok precision",
)
right(
    "an offset in one of two outputs",
    "large offsets",
    lambda x: (x.sin(), x.cos() + 1e9),
    lambda s: normal(s, 3),
    "ok precision",
)
right(
    "a sum with an entry of 1e7",
    "large offsets",
    lambda x: x.sum() + x.sin().sum(),
    lambda s: np.array([1e7, 1.0, 0.5]) + normal(s, 3),
    "ok precision",
)
right("a loss of 1e9", "large offsets", lambda x: ((x - 1e5) ** 2).sum() / 10, lambda s: normal(s, 4))
right("a constant output", "large offsets", lambda x: (x - x, x * 2), lambda s: normal(s, 3))
right("a gradient of exactly 0", "large offsets", lambda x: (x * 0).sum() + 3, lambda s: normal(s, 3))
right("sin² + cos²", "large offsets", lambda x: x.sin() ** 2 + x.cos() ** 2, lambda s: normal(s, 3), "ok precision")
right("1 + 1e-10 sin", "small beside large", lambda x: 1 + 1e-10 * x.sin(), lambda s: normal(s, 3), "ok precision")
for c in (1e-3, 1e-6, 1e-9, 1e-12):
    right(
        f"{c:g} of it in another output", "small beside large", lambda x, c=c: (x.sin(), x.tanh() * c), lambda s: normal(s, 3)
    )
    right(
        f"{c:g} of it in another input",
        "small beside large",
        lambda a, b, c=c: a.sin().sum() + (b.tanh() * c).sum(),
        lambda s: (normal(s, 3), normal(s + 1, 3)),
        "ok precision",
    )
    right(
        f"{c:g} of it in other entries",
        "small beside large",
        lambda x, c=c: (x.sin() * np.array([1, c, c, 1])).sum(),
        lambda s: normal(s, 4),
        "ok precision",
    )

# Frequencies, spikes, plateaus

FAST = "high frequencies and spikes"
for w in (1e2, 1e4, 1e6, 1e8):
    right(f"sin of {w:g} x", FAST, lambda x, w=w: (x * w).sin(), lambda s: normal(s, 1, 4), "ok precision" if w > 1e7 else "ok")
    right(
        f"a spike as narrow as 1/{w:g}",
        FAST,
        lambda x, w=w: (-(((x - 1) * w) ** 2)).exp(),
        lambda s, w=w: np.array([1 + 0.3 / w, 1 - 0.4 / w]) + normal(s, 2) / w / 10,
        "ok precision" if w > 1e7 else "ok",
    )
right("a spike beside a plateau", FAST, lambda x: (-(((x - 1) * 1e6) ** 2)).exp(), lambda s: np.array([1.0000003, 2.0]))
right("a step as steep as 1e6", FAST, lambda x: ((x - 1) * 1e6).tanh(), lambda s: 1 + 1e-6 * normal(s, 3))
right(
    "a step as steep as 1e6, from afar",
    FAST,
    lambda x: ((x - 1) * 1e6).tanh(),
    lambda s: np.array([0.5, 3.0]) + 0.1 * normal(s, 2),
)
right("sin(1/x)", FAST, lambda x: (1 / x).sin(), lambda s: 1e-3 * away(s, 3))
right("a sum of frequencies", FAST, lambda x: sum((x * 10.0**k).sin() for k in range(6)), lambda s: normal(s, 3))
right("a saturated tanh", FAST, lambda x: x.tanh(), lambda s: np.array([-20.0, 15.0, 0.5]) + normal(s, 3), "ok precision")
right("a saturated sigmoid", FAST, lambda x: x.sigmoid(), lambda s: np.array([-40.0, 30.0, 0.5]) + normal(s, 3), "ok precision")
right("exp far down", FAST, lambda x: x.exp(), lambda s: np.array([-600.0, -50.0, 1.0]) + normal(s, 3))
right("exp far up", FAST, lambda x: x.exp(), lambda s: np.array([300.0, 50.0, 1.0]) + normal(s, 3))
right("erf far out", FAST, lambda x: x.erf(), lambda s: np.array([4.0, -5.0, 0.1]) + 0.1 * normal(s, 3))
right("x to the 40th", FAST, lambda x: x**40, lambda s: away(s, 3))
right("cosh at 300", FAST, lambda x: x.cosh(), lambda s: np.array([300.0, -20.0]) + normal(s, 2))
right("tan near its pole", FAST, lambda x: x.tan(), lambda s: np.pi / 2 - np.array([1e-6, 1e-3]) * positive(s, 2))
right("exp of exp", FAST, lambda x: x.exp().exp(), lambda s: 1 + normal(s, 3) / 2)
right("a sixth-order polynomial near its root", FAST, lambda x: (x - 1) ** 6, lambda s: 1 + 1e-2 * away(s, 3))
right("atan at 1e8", FAST, lambda x: x.arctan(), lambda s: 1e8 * away(s, 3))
right(
    "hypot of very different sides",
    FAST,
    lambda a, b: ops.hypot(a, b),
    lambda s: (away(s, 3), 1e-8 * away(s + 1, 3)),
    "ok precision",
)
right("hypot of 1e200", FAST, lambda a, b: ops.hypot(a, b), lambda s: (1e200 * away(s, 3), 1e200 * away(s + 1, 3)))
