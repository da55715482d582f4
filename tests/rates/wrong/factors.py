"""Wrong by a factor: in a rule and outside of it, of every size, common to several inputs, or just beyond rtol."""

from __future__ import annotations

from typing import Any

from tensorgrad import Tensor
from tensorgrad.nn import functional as F
from tests.rates.faults import MAPS, factor_in, hidden, normal, ops, positive, rule, scaled, wrong

# In a rule, and the same outside of it

for f in (0.0, 0.5, 1.1, 2.0, -1.0, 1.01, 1 + 1e-5):
    names = {0.0: "lost", -1.0: "sign"}
    kind = names.get(f, "factor") + " in a rule"
    for name in ("square", "tanh") if f in (0.5, 1.1, 1.01) else ("exp", "sigmoid", "cube"):
        wrong(f"{name} times {f:g}", kind, factor_in(name, f), lambda s: normal(s, 3, 2))
    kind = names.get(f, "factor") + " outside of the rules"
    wrong(f"a sine times {f:g}, outside", kind, lambda x, f=f: scaled(x.sin(), f), lambda s: normal(s, 4))
    wrong(f"softmax times {f:g}, outside", kind, lambda x, f=f: scaled(x.softmax(-1), f), lambda s: normal(s, 2, 3))

doubled = rule(
    lambda xp, a, b: a @ b,
    (lambda g, y, a, b: g @ b.swapaxes(-1, -2), lambda g, y, a, b: a.swapaxes(-1, -2) @ g),
    (lambda g, y, a, b: g @ b.swapaxes(-1, -2) * 2, lambda g, y, a, b: a.swapaxes(-1, -2) @ g),
    "(m,k),(k,n)->(m,n)", "a b" and "xs",
)  # fmt: skip
wrong("matmul, the first gradient doubled", "one input of two", doubled, lambda s: (normal(s, 2, 3), normal(s + 50, 3, 4)))
halved = rule(
    lambda xp, a, b: a * b,
    (lambda g, y, a, b: g * b, lambda g, y, a, b: g * a),
    (lambda g, y, a, b: g * b, lambda g, y, a, b: g * a * 0.5),
)
wrong("mul, the second gradient halved", "one input of two", halved, lambda s: (normal(s, 4), normal(s + 50, 4)))
quotient = rule(
    lambda xp, a, b: a / b,
    (lambda g, y, a, b: g / b, lambda g, y, a, b: -g * y / b),
    (lambda g, y, a, b: g / b, lambda g, y, a, b: g * y / b),
)
wrong("div, the sign of the divisor's gradient", "one input of two", quotient, lambda s: (normal(s, 4), positive(s, 4)))
powers = rule(
    lambda xp, a, b: a**b,
    (lambda g, y, a, b: g * b * y / a, lambda g, y, a, b: g * y * ops.log(a)),
    (lambda g, y, a, b: g * b * y, lambda g, y, a, b: g * y * ops.log(a)),
)
wrong("power, one exponent too many", "one input of two", powers, lambda s: (positive(s, 4), normal(s, 4)))
powers2 = rule(
    lambda xp, a, b: a**b,
    (lambda g, y, a, b: g * b * y / a, lambda g, y, a, b: g * y * ops.log(a)),
    (lambda g, y, a, b: g * b * y / a, lambda g, y, a, b: g * y),
)
wrong("power, the logarithm forgotten", "one input of two", powers2, lambda s: (positive(s, 4), normal(s, 4)))

# Just beyond rtol, and never a kink

for exponent in range(1, 9):
    rtol = 10.0**-exponent
    for k in (3, -3, 30):
        if abs(k * rtol) > 0.5:
            continue
        f = 1 + k * rtol
        name = list(MAPS)[(exponent + k) % len(MAPS)]
        wrong(
            f"{name} wrong by {k} rtol, rtol={rtol:g}", "just beyond rtol", factor_in(name, f), lambda s: normal(s, 3, 2) + 0.2,
            options={"rtol": rtol},
        )  # fmt: skip
    wrong(
        f"outside, wrong by 3 rtol={rtol:g}", "just beyond rtol", lambda x, f=1 + 3 * rtol: scaled(x.sigmoid(), f),
        lambda s: normal(s, 5), options={"rtol": rtol},
    )  # fmt: skip

# Common to several inputs: with an even number of them errors cancel where their shares do


def several(n: int, s: int) -> tuple[Any, ...]:
    return tuple(normal(s + 100 * i, 3) for i in range(n))


for n in range(2, 7):
    for f in (0.0, 0.5, 1.1, 2.0, -1.0):
        if (n + int(10 * f)) % 2 == 0 or n == 2:
            square = factor_in("square", f)
            wrong(
                f"square of a sum of {n}, times {f:g}, in the rule", "errors cancel between inputs",
                lambda *xs, op=square: op(sum(xs)).sum(), lambda s, n=n: several(n, s),
            )  # fmt: skip
        else:
            wrong(
                f"a sine of a sum of {n}, times {f:g}, outside", "errors cancel between inputs",
                lambda *xs, f=f: scaled(sum(x * (i + 1) for i, x in enumerate(xs)).sin(), f).sum(),
                lambda s, n=n: several(n, s),
            )  # fmt: skip


def half(a: Tensor, b: Tensor) -> Tensor:
    y = a + b
    return (y * hidden(y)).sum()


wrong("half of a square detached", "errors cancel between inputs", half, lambda s: (normal(s, 3), normal(s + 500, 3)))


def layer(w: Tensor, b: Tensor) -> Tensor:
    h = (normal(3, 2, 3) @ w + b).tanh()
    return (h * hidden(h)).sum()


wrong("a layer and half of a square", "errors cancel between inputs", layer, lambda s: (normal(s, 3, 4), normal(s + 99, 4)))


def difference(a: Tensor, b: Tensor) -> Tensor:
    return scaled((a - b).exp(), 3.0)


wrong("exp of a difference", "errors cancel between inputs", difference, lambda s: (normal(s, 3), normal(s + 7, 3)))

opposite = rule(
    lambda xp, a, b: a * b,
    (lambda g, y, a, b: g * b, lambda g, y, a, b: g * a),
    (lambda g, y, a, b: g * b * 1.5, lambda g, y, a, b: g * a * 0.5),
)
wrong(
    "a product, what one input has too much the other lacks", "errors cancel between inputs",
    lambda a, b: opposite(a, b).sum(), lambda s: (normal(s, 3), normal(s + 7, 3)),
)  # fmt: skip
wrong(
    "a product of one input with itself, the gradients traded", "errors cancel between inputs",
    lambda a, b: opposite(a + b, a - b).sum(), lambda s: (normal(s, 3), normal(s + 7, 3)),
)  # fmt: skip


def network(f: float) -> Any:
    def fn(w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        y = (normal(0, 6, 5) @ w1 + b1).relu()
        return F.cross_entropy(scaled(y, f) @ w2 + b2, [0, 1, 2, 0, 1, 2])

    return fn


def weights(s: int) -> tuple[Any, ...]:
    return 0.4 * normal(s, 5, 7), 0.1 * normal(s + 4, 7), 0.4 * normal(s + 2, 7, 3), 0.1 * normal(s + 3, 3)


for f in (0.9, 1.01, 1.5):
    wrong(f"a small ReLU network, the ReLU's gradient times {f}", "errors cancel between inputs", network(f), weights)
