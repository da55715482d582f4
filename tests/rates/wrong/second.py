"""Right at order 1, wrong at order 2: values hidden from the second derivative, rules of rules."""

from __future__ import annotations

from typing import Any

import tensorgrad
from tensorgrad import Tensor
from tests.rates.faults import MAPS, Switch, away, factor_in, normal, ops, positive, rule, wrong

SECOND = "second order only"


def seen(x: Any) -> Any:
    """The value alone, of a Tensor in a rule."""
    return x.detach() if isinstance(x, Tensor) and not Switch.mended else x


def blind(name: str, g: bool = False, values: bool = False) -> Any:
    """A rule whose second derivative misses g, or the values."""
    forward, d = MAPS[name]
    return rule(
        forward, lambda g_, y, x: g_ * d(y, x),
        lambda g_, y, x: (seen(g_) if g else g_) * (d(seen(y), seen(x)) if values else d(y, x)),
    )  # fmt: skip


for name in ("square", "exp", "tanh", "cube"):
    op = blind(name, values=True)
    wrong(f"{name}, its values hidden", SECOND, lambda x, op=op: op(x), lambda s: away(s, 3), order=2)
for name in ("square", "sin", "sigmoid"):
    op = blind(name, g=True)
    wrong(f"{name}, g hidden", SECOND, lambda x, op=op: op(x), lambda s: away(s, 3), order=2)
wrong("everything hidden", SECOND, blind("exp", True, True), lambda s: normal(s, 3), order=2)
matmul = rule(
    lambda xp, a, b: a @ b, (lambda g, y, a, b: g @ b.T, lambda g, y, a, b: a.T @ g),
    (lambda g, y, a, b: g @ seen(b).T, lambda g, y, a, b: a.T @ g),
)  # fmt: skip
wrong("matmul, one input hidden", SECOND, matmul, lambda s: (normal(s, 2, 3), normal(s + 1, 3, 2)), order=2)
wrong("a softmax, its y hidden", SECOND, rule(
    lambda xp, z: xp.exp(z) / xp.exp(z).sum(-1, keepdims=True), lambda g, y, z: y * (g - (g * y).sum(-1, keepdims=True)),
    lambda g, y, z: y * (g - (g * seen(y)).sum(-1, keepdims=True)),
), lambda s: normal(s, 2, 3), order=2)  # fmt: skip

# A rule written with an op that is wrong itself: its value is right, its gradient is not

RULE = "a rule whose own rule is wrong"
for f in (0.5, 2.0, 1 + 1e-5):
    cos = rule(lambda xp, x: xp.cos(x), lambda g, y, x: -g * ops.sin(x), lambda g, y, x, f=f: -g * ops.sin(x) * f)
    sin = rule(lambda xp, x: xp.sin(x), lambda g, y, x, cos=cos: g * cos(x), lambda g, y, x, cos=cos: g * cos(x))
    wrong(f"a sine whose cosine is wrong, times {f:g}", RULE, lambda x, op=sin: op(x), lambda s: normal(s, 3), order=2)
inner = factor_in("square", 1.5)
cube = rule(lambda xp, x: x * x * x, lambda g, y, x: 3 * g * inner(x), lambda g, y, x: 3 * g * inner(x))
wrong("a cube whose square is wrong", RULE, lambda x: cube(x), lambda s: away(s, 3), order=2)
g_wrong = rule(
    lambda xp, g, y: g * y,
    (lambda h, z, g, y: h * y, lambda h, z, g, y: h * g),
    (lambda h, z, g, y: 2 * h * y, lambda h, z, g, y: h * g),
)
exp = rule(lambda xp, x: xp.exp(x), lambda g, y, x: g_wrong(g, y), lambda g, y, x: g_wrong(g, y))
wrong("an exp whose gradient by g is doubled", RULE, lambda x: exp(x), lambda s: normal(s, 3), order=2)
wrong("log whose reciprocal is wrong", RULE, lambda x: log(x), lambda s: positive(s, 3), order=2)
reciprocal = rule(lambda xp, x: 1 / x, lambda g, y, x: -g * y * y, lambda g, y, x: g * y * y)
log = rule(lambda xp, x: xp.log(x), lambda g, y, x: g * reciprocal(x), lambda g, y, x: g * reciprocal(x))

# A gradient inside of the function

INSIDE = "a gradient inside, its own gradient wrong"


def gradient_of(op: Any) -> Any:
    def fn(x: Tensor) -> Tensor:
        v = x * 1.0
        (g,) = tensorgrad.grad(op(v).sum(), v, create_graph=True)
        return (g * g).sum() + x.sum()

    return fn


for name in ("cube", "exp"):
    wrong(
        f"a penalty on the gradient of {name}, its values hidden",
        INSIDE,
        gradient_of(blind(name, values=True)),
        lambda s: away(s, 3),
    )
wrong(
    "hidden at order 2, with several inputs",
    SECOND,
    lambda a, b: blind_of_two(a, b).sum(),
    lambda s: (normal(s, 3), normal(s + 1, 3)),
    order=2,
)
blind_of_two = rule(
    lambda xp, a, b: a * a * b, (lambda g, y, a, b: 2 * g * a * b, lambda g, y, a, b: g * a * a),
    (lambda g, y, a, b: 2 * g * a * seen(b), lambda g, y, a, b: g * seen(a) * seen(a)),
)  # fmt: skip
