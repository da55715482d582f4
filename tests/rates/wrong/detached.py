"""Gradients lost outside of every rule: detached values, NumPy arithmetic, captured numbers, straight-through estimators."""

from __future__ import annotations

from typing import Any

import numpy as np

import tensorgrad
from tensorgrad import Tensor
from tensorgrad.nn import functional as F
from tests.rates.faults import Switch, away, frozen, hidden, normal, number, ops, positive, wrong

LABELS = np.array([0, 2, 1, 0])


def logits(s: int) -> np.ndarray:
    return normal(s, 4, 3)


# In part

PART = "detached in part"
wrong("x times its detached sine", PART, lambda x: x * hidden(x.sin()), lambda s: normal(s, 4))
wrong("one of two outputs", PART, lambda x: (x.sin(), hidden(x.cos()) + 0 * x), lambda s: normal(s, 3))
wrong("one of two inputs", PART, lambda a, b: a.sin() * hidden(b), lambda s: (normal(s, 3), normal(s + 9, 3)))
wrong("one of three terms", PART, lambda x: x.exp() + hidden(x * x) + x.sin(), lambda s: normal(s, 3))
wrong("a residual branch", PART, lambda x: x + hidden((x * 2).tanh()), lambda s: normal(s, 3))
wrong("the residual", PART, lambda x: hidden(x) + (x * 2).tanh(), lambda s: normal(s, 3))
wrong("a norm that weights are divided by", PART, lambda w: w / hidden(ops.norm(w)), lambda s: normal(s, 4))
wrong("the mean of a centred batch", PART, lambda x: (x - hidden(x.mean(0))) ** 3, lambda s: normal(s, 4, 2))
wrong("the deviation of a batch", PART, lambda x: (x - x.mean(0)) / hidden(x.std(0)), lambda s: normal(s, 5, 2))
wrong("the denominator of a softmax", PART, lambda z: z.exp() / hidden(z.exp().sum(-1, True)), logits)
wrong("the attention", PART, lambda q, k: hidden((q @ k.T).softmax(-1)) @ k, lambda s: (normal(s, 3, 2), normal(s + 9, 4, 2)))
wrong("a gate", PART, lambda x, w: hidden((x @ w).sigmoid()) * (x @ w).tanh(), lambda s: (normal(s, 3, 2), normal(s, 2, 2)))
wrong("a slice", PART, lambda x: ops.concatenate(x[:2].sin(), hidden(x[2:]).sin()), lambda s: normal(s, 4))
wrong(
    "the tail of a sum",
    PART,
    lambda x: (x * x).sum() - (x[3:] * x[3:]).sum() + hidden((x[3:] ** 2).sum()),
    lambda s: normal(s, 6),
)


def recurrent(steps: int) -> Any:
    def fn(w: Tensor, x: Tensor) -> Tensor:
        h = x[0]
        for t in range(1, steps):
            h = (h @ w + x[t]).tanh()
            h = hidden(h) if t == steps // 2 else h
        return (h * h).sum()

    return fn


for steps in (3, 8):
    wrong(
        f"through {steps} steps of time, cut in the middle", PART, recurrent(steps),
        lambda s, n=steps: (0.7 * normal(s, 3, 3), normal(s + 5, n, 2, 3)),
    )  # fmt: skip
wrong("a tied weight, one of its uses", PART, lambda w: (normal(1, 2, 3) @ w).tanh() @ hidden(w.T), lambda s: normal(s, 3, 4))

# Weights of losses

LOSS = "a weight of the loss detached"


def picked(z: Tensor) -> Tensor:
    return z.softmax(-1).log()[np.arange(4), LABELS]


wrong("focal", LOSS, lambda z: -((1 - hidden(picked(z).exp())) ** 2 * picked(z)).mean(), logits)
wrong("an importance weight", LOSS, lambda z: -(hidden(picked(z).exp()) * picked(z)).sum(), logits)
wrong("distances weighted by themselves", LOSS, lambda x: (hidden(1 / (1 + x * x)) * x * x).mean(), lambda s: normal(s, 6))
wrong("uncertainty", LOSS, lambda x, v: (x * x / hidden(v) + v.log()).sum(), lambda s: (normal(s, 3), positive(s, 3)))
wrong(
    "a loss divided by its own size",
    LOSS,
    lambda z: F.cross_entropy(z, LABELS) / hidden(F.cross_entropy(z, LABELS)) ** 0.5,
    logits,
)
wrong(
    "an entropy bonus",
    LOSS,
    lambda z: F.cross_entropy(z, LABELS) + hidden(0.1 * (z.softmax(-1) * z.log_softmax(-1)).sum()),
    logits,
)

# As a whole

WHOLE = "detached as a whole"
wrong("everything", WHOLE, lambda x: hidden(x.sin()) + 0 * x, lambda s: normal(s, 3))
wrong("everything, to nothing that is recorded", WHOLE, lambda x: hidden(x * x).exp(), lambda s: normal(s, 3))
wrong(
    "an input of three",
    WHOLE,
    lambda a, b, c: a * b + hidden(c).sin(),
    lambda s: (normal(s, 3), normal(s + 1, 3), normal(s + 2, 3)),
)
wrong("a softplus behind an offset", WHOLE, lambda x: hidden(x).softplus() + 1e6 + 0 * x, lambda s: normal(s, 3, 4))

# By NumPy

NUMPY = "NumPy arithmetic inside"
wrong("NumPy's sine as a factor", NUMPY, lambda x: x * frozen(x.sin()), lambda s: normal(s, 4))
wrong("a mask of weights, not of comparisons", NUMPY, lambda x: x * frozen(x.sigmoid()), lambda s: normal(s, 4))
wrong("NumPy's maximum of a row", NUMPY, lambda x: x / frozen(x.max(-1, True)), lambda s: positive(s, 3, 3))
wrong(
    "NumPy's rows sorted",
    NUMPY,
    lambda x: x.exp() * (np.sort(x.data) if not Switch.mended else x[np.argsort(x.data)]),
    lambda s: normal(s, 4),
)
wrong(
    "an intermediate built again",
    NUMPY,
    lambda x: (x.exp() * (Tensor(frozen(x.sin())) if not Switch.mended else x.sin())).sum(),
    lambda s: normal(s, 4),
)
wrong(
    "an inverse by NumPy",
    NUMPY,
    lambda a: (np.linalg.inv(a.data) if not Switch.mended else ops.inv(a)) @ a.sin(),
    lambda s: normal(s, 3, 3) + 4 * np.eye(3),
)

NUMBERS = "captured numbers"
wrong("a sum as a number", NUMBERS, lambda x: x * number((x * x).sum()), lambda s: normal(s, 4))
wrong("a norm as a number", NUMBERS, lambda x: x / number(ops.norm(x)), lambda s: normal(s, 4))
wrong("a mean as a number", NUMBERS, lambda x: (x - number(x.mean())) ** 2, lambda s: normal(s, 4))
wrong(
    "a temperature as a number",
    NUMBERS,
    lambda z, t: (z / number(t)).softmax(-1) + 0 * t,
    lambda s: (normal(s, 3), np.array(1.5 + s / 40)),
)
wrong("the largest as a number", NUMBERS, lambda x: (x - number(x.max())).exp(), lambda s: normal(s, 4))
wrong(
    "an exponent as a number", NUMBERS, lambda x, p: x ** number(p) + 0 * p, lambda s: (positive(s, 3), np.array(1.3 + s / 40))
)

# Straight through: the value of one function, the gradient of another

THROUGH = "straight through"


def through(rounded: Any) -> Any:
    """The rounded value with the gradient of x; mended, the recorded gradient of what is rounded, which is 0."""
    return lambda x: rounded(x) if Switch.mended else x + (rounded(x) - x).detach()


def between(s: int) -> np.ndarray:
    """Numbers in the middle between those that round differently."""
    r = np.random.default_rng(s)
    return r.integers(-3, 4, 5) + r.uniform(-0.3, 0.3, 5) + np.where(np.arange(5) == 0, 0.01, 0.0)


wrong("round", THROUGH, lambda x: through(ops.round)(x) * 3, between)
wrong("sign", THROUGH, through(ops.sign), lambda s: away(s, 4))
wrong("floor", THROUGH, lambda x: through(ops.floor)(x + 0.5) ** 2 + x, between)
wrong(
    "a hard threshold as a sigmoid",
    THROUGH,
    lambda x: (through(lambda v: (v > 0) * 1.0 + 0 * v)(x)) + x.sin(),
    lambda s: away(s, 4),
)
wrong(
    "clip as the identity",
    THROUGH,
    lambda x: ops.clip(x, -1, 1) if Switch.mended else x + (ops.clip(x, -1, 1) - x).detach(),
    lambda s: 3 * away(s, 4, least=0.5),
)
wrong(
    "hard argmax as softmax",
    THROUGH,
    lambda z: z.softmax(-1) + (0 * z if Switch.mended else z * 0.1 - (z * 0.1).detach()),
    logits,
)

# Around calls of grad inside of the function

INNER = "a gradient inside, not recorded"


def penalty(w: Tensor, x: Tensor) -> Tensor:
    y = (x @ w).tanh().sum()
    (g,) = tensorgrad.grad(y, x, create_graph=Switch.mended, retain_graph=True)
    return y + (g * g).sum()


wrong("a gradient penalty without create_graph", INNER, penalty, lambda s: (normal(s, 3, 2), normal(s + 4, 2, 3)))


def implicit(x: Tensor) -> Tensor:
    """A step of gradient descent inside."""
    w = x.sin()
    (g,) = tensorgrad.grad((w * w * w).sum(), w, create_graph=Switch.mended, retain_graph=True)
    return w - 0.1 * g


wrong("an unrolled step of descent", INNER, implicit, lambda s: normal(s, 4))
