"""Wrong on some paths only: when recorded, at float32, fused or not, for some upstream gradients or outputs, in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tensorgrad import Tensor, nn
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY
from tests.rates.faults import (
    MAPS,
    Model,
    Switch,
    data,
    hidden,
    normal,
    ops,
    rule,
    scaled,
    wrong,
)

# When recorded

RECORDED = "only when recorded"


def when_recorded(name: str, f: float) -> Any:
    forward, d = MAPS[name]
    return rule(forward, lambda g, y, x: g * d(y, x), lambda g, y, x: g * d(y, x) * (f if isinstance(g, Tensor) else 1.0))


for name, f in (("square", 1.5), ("exp", -1.0), ("tanh", 0.0), ("sin", 1.01), ("cube", 1 + 1e-5)):
    op = when_recorded(name, f)
    wrong(
        f"{name}, times {f:g} for Tensors",
        RECORDED,
        lambda x, op=op: op(x).sum(),
        lambda s: normal(s, 3),
        order=2,
    )
wrong("an extra term for Tensors", RECORDED, rule(
    MAPS["square"][0], lambda g, y, x: 2 * g * x, lambda g, y, x: 2 * g * x + (g if isinstance(g, Tensor) else 0)
), lambda s: normal(s, 3), order=2)  # fmt: skip
wrong("for arrays, right for Tensors", "only when not recorded", rule(
    MAPS["square"][0], lambda g, y, x: 2 * g * x, lambda g, y, x: g * x * (2 if isinstance(g, Tensor) else 2.2)
), lambda s: normal(s, 3))  # fmt: skip

# At float32; the check is given float64, or float32

SINGLE = "only at float32"


def at_single(name: str, f: float) -> Any:
    forward, d = MAPS[name]
    return rule(forward, lambda g, y, x: g * d(y, x), lambda g, y, x: g * d(y, x) * (f if data(x).dtype == np.float32 else 1.0))


for name, f in (("exp", 2.0), ("tanh", 1.1), ("square", 0.0)):
    wrong(f"{name} times {f:g}", SINGLE, at_single(name, f), lambda s: normal(s, 3), shows="float32")
    wrong(
        f"{name} times {f:g}, given as float32",
        SINGLE,
        at_single(name, f),
        lambda s: normal(s, 3).astype(np.float32),
        shows="float32",
    )
wrong(
    "an epsilon that float32 does not see",
    SINGLE,
    rule(
        MAPS["atan"][0],
        lambda g, y, x: g / (1 + x * x),
        lambda g, y, x: g / (1 + x * x) if (data(x) + 1e-9 != data(x)).all() else g,
    ),
    lambda s: np.round(normal(s, 3), 3),
    shows="float32",
)

# Fused, unfused

FUSED, UNFUSED = "only fused", "only unfused"


def broken(name: str, f: float, at: int = 0) -> Callable[[], Any]:
    """A context in which the rule of a registered op gives f times the gradient of one of its inputs."""
    op = REGISTRY[name]
    original = type(op).backward

    @contextmanager
    def context() -> Iterator[None]:
        def backward(g: Any, y: Any, *xs: Any, **attrs: Any) -> Any:
            parts = list(original(op, g, y, *xs, **attrs))  # type: ignore[misc]
            part = parts[at]
            if not Switch.mended and part is not None:
                parts[at] = lambda: part() * f
            return tuple(parts)

        op.__dict__["backward"] = backward
        try:
            yield
        finally:
            del op.__dict__["backward"]

    return context


def dense(s: int) -> tuple[np.ndarray, ...]:
    return normal(s, 3, 2), normal(s + 4, 2, 4), normal(s + 8, 4)


def partly_alive(s: int) -> Any:
    """As `dense`, with a unit that is never at rest."""
    x, w, b = dense(s)
    return x, w, b + 20.0 * (np.arange(b.size) == 0)


wrong("linear, twice", FUSED, lambda x, w, b: x @ w + b, dense, around=broken("linear", 2.0, 1))
wrong("linear_relu, 1.1", FUSED, lambda x, w, b: (x @ w + b).relu(), partly_alive, around=broken("linear_relu", 1.1, 1))
wrong("linear_tanh, the bias", FUSED, lambda x, w, b: (x @ w + b).tanh(), dense, around=broken("linear_tanh", 0.5, 2))
wrong(
    "linear_sigmoid, the input", FUSED, lambda x, w, b: (x @ w + b).sigmoid(), dense, around=broken("linear_sigmoid", -1.0, 0)
)
wrong(
    "softmax_cross_entropy", FUSED, lambda z: F.nll_loss(ops.log_softmax(z), np.array([0, 1])), lambda s: normal(s, 2, 3),
    around=broken("softmax_cross_entropy", 1.01),
)  # fmt: skip
wrong("matmul under linear", UNFUSED, lambda x, w, b: x @ w + b, dense, around=broken("matmul", 2.0, 1), shows="unfused")
wrong("tanh under linear_tanh", UNFUSED, lambda x, w, b: (x @ w + b).tanh(), dense, around=broken("tanh", 1.1), shows="unfused")
wrong(
    "relu under linear_relu",
    UNFUSED,
    lambda x, w, b: (x @ w + b).relu(),
    partly_alive,
    around=broken("relu", 0.0),
    shows="unfused",
)
wrong(
    "log_softmax under softmax_cross_entropy", UNFUSED, lambda z: F.nll_loss(ops.log_softmax(z), np.array([0, 1])),
    lambda s: normal(s, 2, 3), around=broken("log_softmax", 1.5), shows="unfused",
)  # fmt: skip


def mlp(s: int) -> Model:
    r = np.random.default_rng(s)
    model = nn.Sequential(nn.Linear(4, 5, rng=r), nn.Tanh(), nn.Linear(5, 3, rng=r))
    return Model(model, F.cross_entropy, normal(s, 3, 4), np.array([0, 1, 2]))


wrong("tanh under linear_tanh, in a model", UNFUSED, make=mlp, around=broken("tanh", 1.1), shows="unfused")
wrong("linear_tanh, in a model", FUSED, make=mlp, around=broken("linear_tanh", 1.1, 1))

# For some upstream gradients

UPSTREAM = "not linear in g"
exp_of = lambda part: rule(MAPS["exp"][0], lambda g, y, x: g * y, part)  # noqa: E731
wrong("g squared", UPSTREAM, exp_of(lambda g, y, x: g * g * y), lambda s: normal(s, 4))
wrong("the size of g", UPSTREAM, exp_of(lambda g, y, x: ops.abs(g) * y), lambda s: normal(s, 4))
wrong("g, where it is positive", UPSTREAM, exp_of(lambda g, y, x: g * (g > 0) * y), lambda s: normal(s, 4))
wrong("tanh of g", UPSTREAM, exp_of(lambda g, y, x: ops.tanh(g) * y), lambda s: normal(s, 4))
wrong("g clipped", UPSTREAM, exp_of(lambda g, y, x: ops.clip(g, -1.0, 1.0) * y), lambda s: normal(s, 8))
wrong("g over its norm", UPSTREAM, exp_of(lambda g, y, x: g * y / ops.norm(g)), lambda s: normal(s, 4))
wrong("g over its largest", UPSTREAM, exp_of(lambda g, y, x: g * y / ops.max(ops.abs(g))), lambda s: normal(s, 4))
wrong(
    "g without its mean", "wrong for g that are not one", exp_of(lambda g, y, x: (g - ops.mean(g)) * y), lambda s: normal(s, 4)
)
wrong("the mean of g", "wrong for g that are not one", exp_of(lambda g, y, x: ops.mean(g) * y), lambda s: normal(s, 4))
wrong("as if g were one", "wrong for g that are not one", exp_of(lambda g, y, x: y + 0 * g), lambda s: normal(s, 4))
wrong(
    "as if g were one, in a sum that is doubled",
    "wrong for g that are not one",
    lambda x: exp_of_one(x).sum() * 2,
    lambda s: normal(s, 4),
)
exp_of_one = exp_of(lambda g, y, x: y + 0 * g)
wrong("g rounded to half precision", "precision lost", rule(
    MAPS["exp"][0], lambda g, y, x: g * y, lambda g, y, x: (g * y).astype(np.float16).astype(np.float64)
), lambda s: normal(s, 8))  # fmt: skip
wrong("g rounded to four digits", "precision lost", rule(
    MAPS["exp"][0], lambda g, y, x: g * y, lambda g, y, x: ops.round(g * y, 4)
), lambda s: normal(s, 8))  # fmt: skip
wrong("g as an integer", "precision lost", rule(
    MAPS["exp"][0], lambda g, y, x: g * y, lambda g, y, x: ops.trunc(g * y)
), lambda s: normal(s, 4))  # fmt: skip

UNDEFINED = "only where an upstream gradient is 0 or missing"


def if_zero(value: Callable[[Any, Any], Any]) -> Any:
    return rule(MAPS["exp"][0], lambda g, y, x: g * y, lambda g, y, x: g * y if data(g).any() else value(y, x))


wrong(
    "of two outputs one, the other is given y",
    UNDEFINED,
    lambda x: (if_zero(lambda y, x: y + 0)(x), x.sin()),
    lambda s: normal(s, 3),
    shows="silent",
)
wrong(
    "of two outputs one, a constant",
    UNDEFINED,
    lambda x: (if_zero(lambda y, x: 0 * y + 1)(x.sin()), (x * x).sum()),
    lambda s: normal(s, 3),
    shows="silent",
)
wrong(
    "a row whose gradient is 0", UNDEFINED, lambda x: if_zero(lambda y, x: 0 * y + 1)(x) * 0.0 + x.sin(), lambda s: normal(s, 3)
)
wrong("entries whose gradient is 0", UNDEFINED, lambda x: fills(x)[:2], lambda s: normal(s, 4))
fills = rule(MAPS["exp"][0], lambda g, y, x: g * y, lambda g, y, x: g * y + (data(g) == 0) * 0.1)

# With several outputs, or none of their own

OUTPUTS = "only with several outputs"
wrong("the second of two", OUTPUTS, lambda x: (x.sin(), scaled(x.exp(), 1.1)), lambda s: normal(s, 3))
wrong("the third of three", OUTPUTS, lambda x: (x.sin(), x.exp().sum(), hidden(x.tanh()) + 0 * x), lambda s: normal(s, 3))
wrong(
    "of two that share a part, the part of one",
    OUTPUTS,
    lambda x: (x.tanh().sin(), scaled(x.tanh(), 0.9).exp()),
    lambda s: normal(s, 3),
)
wrong("the 0-d one", OUTPUTS, lambda x: (x @ x.T, scaled(x.sum(), 1.001)), lambda s: normal(s, 3, 3))
wrong("split, the pieces traded", OUTPUTS, lambda x: traded(x), lambda s: normal(s, 4))


def traded(x: Tensor) -> Any:
    a, b = x.sin()[:2], x.sin()[2:]
    return (a, b) if Switch.mended else (a.detach() + b - b.detach(), b.detach() + a - a.detach())


# In place, and accumulation

PLACE = "in place"


def twice_in_place(g: Any, y: Any, x: Any) -> Any:
    """Writes over the gradient that it was handed, which others are handed too."""
    if isinstance(g, Tensor):
        return g * y
    if g.flags.writeable:
        g *= y
        return g
    return g * y


in_place = rule(MAPS["exp"][0], lambda g, y, x: g * y, twice_in_place)
wrong(
    "the upstream gradient, shared with a sum's other side",
    PLACE,
    lambda x: x * 2 + in_place(x.sin()),
    lambda s: normal(s, 3),
)
wrong(
    "the upstream gradient, shared by two of the kind",
    PLACE,
    lambda a, b: in_place(a) + in_place(b),
    lambda s: (normal(s, 3), normal(s + 1, 3)),
)


def ruins_its_input(g: Any, y: Any, x: Any) -> Any:
    found = g * y
    if isinstance(x, np.ndarray) and x.flags.writeable:
        x += 0.1
    return found


ruin = rule(MAPS["exp"][0], lambda g, y, x: g * y, ruins_its_input)


def read_later(x: Tensor) -> Tensor:
    h = x.sin()
    square = h * h  # its rule reads h after the other has changed it
    return square + ruin(h)


wrong("the input, which another rule reads later", PLACE, read_later, lambda s: normal(s, 3))


def shared_input(x: Tensor) -> Tensor:
    h = x.sin()
    return h.exp() * 0.5 + ruin(h) * (h * h)


wrong("an input used three times", PLACE, shared_input, lambda s: normal(s, 3))
twice = rule(
    lambda xp, a, b: a * b, (lambda g, y, a, b: g * b, lambda g, y, a, b: g * a),
    (lambda g, y, a, b: g * b, lambda g, y, a, b: g * (0 if np.array_equal(data(a), data(b)) else 1) * a),
)  # fmt: skip
wrong("an input used twice counts once", "one input in two places", lambda x: twice(x, x), lambda s: normal(s, 3))
wrong(
    "an input used twice, through two paths",
    "one input in two places",
    lambda x: twice(x.sin(), x.sin() + 0),
    lambda s: normal(s, 3),
)
wrong("of two uses the later", "one input in two places", lambda x: x.exp() * hidden(x).sin() + x * x, lambda s: normal(s, 3))
