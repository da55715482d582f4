"""Right models and programs: layers, tied weights, penalties on gradients, checkpoints, ops of the user's own; and order 2."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import tensorgrad
from tensorgrad import Tensor, checkpoint, nn
from tensorgrad.nn import functional as F
from tests.rates.faults import Model, away, elementwise, normal, ops, positive, right, rule

LABELS = np.arange(4) % 3
Maker = Callable[[int], Model]


def network(
    *layers: Callable[[np.random.Generator], nn.Module],
    loss: Any = F.cross_entropy,
    x: Any = None,
    y: Any = LABELS,
    eval_: bool = False,
) -> Maker:
    def make(s: int) -> Model:
        r = np.random.default_rng(s)
        model = nn.Sequential(*[layer(r) for layer in layers])
        model.train(not eval_)
        return Model(model, loss, normal(s, 4, 4) if x is None else x(s), y)

    return make


def dense(n: int, m: int, **more: Any) -> Callable[[np.random.Generator], nn.Module]:
    return lambda r: nn.Linear(n, m, rng=r, **more)


def plain(module: Callable[[], nn.Module]) -> Callable[[np.random.Generator], nn.Module]:
    return lambda r: module()


MODELS = "models"
for name in ("ReLU", "Tanh", "Sigmoid", "GELU", "SiLU", "ELU", "LeakyReLU", "Softplus"):
    right(f"an MLP with {name}", MODELS, make=network(dense(4, 6), plain(getattr(nn, name)), dense(6, 3)), allowed="ok kink")
right(
    "batch norm, training",
    MODELS,
    make=network(dense(4, 5), plain(lambda: nn.BatchNorm1d(5)), plain(nn.Tanh), dense(5, 3)),
    allowed="ok precision",
    known="the bias before it has gradient 0",
)
right(
    "batch norm, eval",
    MODELS,
    make=network(dense(4, 5), plain(lambda: nn.BatchNorm1d(5)), plain(nn.Tanh), dense(5, 3), eval_=True),
)
right(
    "layer norm",
    MODELS,
    make=network(dense(4, 5), plain(lambda: nn.LayerNorm(5)), plain(nn.ReLU), dense(5, 3)),
    allowed="ok kink",
)
right("dropout, eval", MODELS, make=network(dense(4, 5), plain(nn.Dropout), dense(5, 3), eval_=True))
right(
    "an embedding",
    MODELS,
    make=network(lambda r: nn.Embedding(5, 3, rng=r), plain(nn.Tanh), dense(3, 3), x=lambda s: np.array([0, 3, 0, 1])),
)
right(
    "a convolution",
    MODELS,
    make=network(
        lambda r: nn.Conv2d(1, 2, 3, rng=r),
        plain(nn.ReLU),
        plain(lambda: nn.MaxPool2d(2)),
        plain(nn.Flatten),
        dense(2, 3),
        x=lambda s: normal(s, 4, 1, 4, 4),
    ),
    allowed="ok kink",
)
right(
    "weights of zeros",
    MODELS,
    make=network(dense(4, 5, weight_init=nn.init.zeros()), plain(nn.ReLU), dense(5, 3)),
    allowed="ok kink",
)
right(
    "dead units",
    MODELS,
    make=network(dense(4, 5), plain(nn.ReLU), dense(5, 3), x=lambda s: np.zeros((4, 4))),
    allowed="ok kink",
)
right(
    "twelve sigmoid layers",
    MODELS,
    make=network(*[layer for _ in range(12) for layer in (dense(4, 4), plain(nn.Sigmoid))]),
    allowed="ok precision",
)
right(
    "eight tanh layers",
    MODELS,
    make=network(*[layer for _ in range(8) for layer in (dense(4, 4), plain(nn.Tanh))], dense(4, 3)),
)
right("a regression", MODELS, make=network(dense(4, 5), plain(nn.Tanh), dense(5, 1), loss=F.mse_loss, y=np.ones((4, 1))))
right(
    "a Huber loss",
    MODELS,
    make=network(dense(4, 5), plain(nn.Tanh), dense(5, 1), loss=F.huber_loss, y=np.ones((4, 1))),
    allowed="ok kink",
)
right("an MLP, order 2", MODELS, make=network(dense(4, 3), plain(nn.Tanh), dense(3, 3)), order=2)
right(
    "fitted exactly",
    MODELS,
    make=network(dense(4, 1, weight_init=nn.init.zeros()), loss=F.mse_loss, y=np.zeros((4, 1))),
    known="loss and gradient are 0",
)
right(
    "inputs of 1e4",
    MODELS,
    make=network(dense(4, 5), plain(nn.Tanh), dense(5, 3), x=lambda s: 1e4 * normal(s, 4, 4)),
    allowed="ok precision",
)
right(
    "float32 inputs",
    MODELS,
    make=network(dense(4, 5), plain(nn.Tanh), dense(5, 3), x=lambda s: normal(s, 4, 4).astype(np.float32)),
)


class Tied(nn.Module):
    """An autoencoder with one matrix."""

    def __init__(self, s: int) -> None:
        super().__init__()
        self.w = nn.Parameter(normal(s, 4, 2))
        self.again = self.w

    def forward(self, x: Any) -> Any:
        return (x @ self.w).tanh() @ self.again.T


right("tied weights", MODELS, make=lambda s: Model(Tied(s), F.mse_loss, normal(s, 3, 4), normal(s + 1, 3, 4)))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ops.where(np.tril(np.ones((3, 3))) > 0, q @ k.T / 2, -np.inf).softmax(-1) @ v


def recurrent(w: Tensor, u: Tensor, x: Tensor) -> Tensor:
    h = np.zeros((1, 3))
    for t in range(x.shape[0]):
        h = (x[t] @ u + h @ w).tanh()
    return h


PROGRAMS = "programs"
right("attention with a mask", PROGRAMS, attention, lambda s: (normal(s, 3, 2), normal(s + 1, 3, 2), normal(s + 2, 3, 2)))
right("a recurrent network", PROGRAMS, recurrent, lambda s: (normal(s, 3, 3) / 2, normal(s + 1, 2, 3), normal(s + 2, 5, 1, 2)))
right(
    "a checkpoint",
    PROGRAMS,
    lambda x, w: checkpoint(lambda a, b: (a @ b).tanh().exp(), x, w),
    lambda s: (normal(s, 2, 3), normal(s + 1, 3, 2)),
)
right("a checkpoint, order 2", PROGRAMS, lambda x: checkpoint(lambda a: a.sin() * a, x), lambda s: normal(s, 3), order=2)


def penalty(w: Tensor, x: Tensor) -> Tensor:
    y = (x @ w).tanh().sum()
    (g,) = tensorgrad.grad(y, x, create_graph=True)
    return y + ((g * g).sum() - 1) ** 2


def hessian_vector(x: Tensor) -> Tensor:
    (g,) = tensorgrad.grad((x.sin() * x).sum(), x, create_graph=True)
    (h,) = tensorgrad.grad((g * np.arange(1.0, 4)).sum(), x, create_graph=True)
    return h


def unrolled(x: Tensor) -> Tensor:
    w = x.sin()
    for _ in range(3):
        (g,) = tensorgrad.grad(((w - x) ** 4).sum(), w, create_graph=True)
        w = w - 0.1 * g
    return w


right("a gradient penalty", PROGRAMS, penalty, lambda s: (normal(s, 3, 2), normal(s + 1, 2, 3)))
right("a gradient penalty, order 2", PROGRAMS, penalty, lambda s: (normal(s, 2, 2), normal(s + 1, 2, 2)), order=2)
right("a Hessian times a vector", PROGRAMS, hessian_vector, lambda s: normal(s, 3))
right("three unrolled steps", PROGRAMS, unrolled, lambda s: normal(s, 3) / 2)
right("a fixed draw inside", PROGRAMS, lambda x: (x * np.random.default_rng(0).normal(size=3)).exp(), lambda s: normal(s, 3))
right(
    "a seeded dropout inside",
    PROGRAMS,
    lambda x: F.dropout(x.sin(), 0.5, True, np.random.default_rng(3)),
    lambda s: normal(s, 8),
)
right("a shared part in two outputs", PROGRAMS, lambda x: (x.tanh().sin(), x.tanh().exp()), lambda s: normal(s, 3))
right("an input used ten times", PROGRAMS, lambda x: sum((x * k).sin() for k in range(1, 11)), lambda s: normal(s, 3))
right("Newton's root", PROGRAMS, lambda x: newton(x), lambda s: positive(s, 3))


def newton(x: Tensor) -> Tensor:
    y = x * 0 + 1
    for _ in range(8):
        y = 0.5 * (y + x / y)
    return y


right(
    "three inputs, order 2",
    PROGRAMS,
    lambda a, b, c: (a * b).sin() * c,
    lambda s: (normal(s, 2), normal(s + 1, 2), normal(s + 2, 2)),
    order=2,
)
right("two outputs, order 2", PROGRAMS, lambda x: (x.exp(), x.sin().sum()), lambda s: normal(s, 3), order=2)
right("softmax cross-entropy, order 2", PROGRAMS, lambda z: F.cross_entropy(z, LABELS), lambda s: normal(s, 4, 3), order=2)
right("a linear function, order 2", PROGRAMS, lambda x: x.cumsum(0) * 3, lambda s: normal(s, 3), order=2)
right(
    "batch norm spelled out, order 2",
    PROGRAMS,
    lambda x: (x - x.mean(0)) / (x.var(0) + 1e-5).sqrt(),
    lambda s: normal(s, 4, 2),
    order=2,
)

# Ops of the user's own, with forwards that complex numbers, or long doubles, go through wrongly or not at all

OWN = "ops of the user's own"


def own(name: str, forward: Any, d: Any, draw: Any, **more: Any) -> None:
    right(name, OWN, elementwise(forward, d, d), draw, **more)


own("xp.exp", lambda xp, x: xp.exp(x), lambda y, x: y, lambda s: normal(s, 3))
own(
    "|x| sin x",
    lambda xp, x: xp.abs(x) * xp.sin(x),
    lambda y, x: ops.sign(x) * ops.sin(x) + ops.abs(x) * ops.cos(x),
    lambda s: away(s, 3),
)
own("x.real", lambda xp, x: x.real * x, lambda y, x: 2 * x, lambda s: normal(s, 3))
own("x conj(x)", lambda xp, x: x * xp.conj(x), lambda y, x: 2 * x, lambda s: normal(s, 3))
own(
    "math.erf",
    lambda xp, x: np.array([math.erf(v) for v in x.ravel()]).reshape(x.shape),
    lambda y, x: 2 / math.sqrt(math.pi) * ops.exp(-x * x),
    lambda s: normal(s, 3),
)
own(
    "astype",
    lambda xp, x: x.astype(np.float64) ** 2 if x.dtype.kind == "f" else x**2,
    lambda y, x: 2 * x,
    lambda s: normal(s, 3),
)
own(
    "a comparison",
    lambda xp, x: xp.where(x.real > 0, x * x, -x),
    lambda y, x: ops.where(x > 0, 2 * x, -1.0),
    lambda s: away(s, 3),
)
own(
    "np.interp",
    lambda xp, x: np.interp(x, np.arange(-9.0, 9), np.arange(-9.0, 9) ** 2),
    lambda y, x: 2 * ops.floor(x) + 1,
    lambda s: np.floor(3 * normal(s, 3)) % 5 + 0.4,
)
own("np.maximum", lambda xp, x: np.maximum(x, 0), lambda y, x: (x > 0) * 1.0, lambda s: away(s, 3))
own(
    "np.piecewise",
    lambda xp, x: np.where(x.real < 0, xp.exp(x), 1 + x),
    lambda y, x: ops.where(x < 0, y, 1.0),
    lambda s: away(s, 3),
)
right(
    "np.linalg.norm",
    OWN,
    rule(
        lambda xp, x: x / np.linalg.norm(x),
        lambda g, y, x: (g - y * (g * y).sum()) / ops.norm(x),
        lambda g, y, x: (g - y * (g * y).sum()) / ops.norm(x),
    ),
    lambda s: normal(s, 3),
)
right("an op of two inputs, order 2", OWN, rule(
    lambda xp, a, b: a * xp.sin(b), two := (lambda g, y, a, b: g * ops.sin(b), lambda g, y, a, b: g * a * ops.cos(b)), two
), lambda s: (normal(s, 3), normal(s + 1, 3)), order=2)  # fmt: skip
right("an op that broadcasts", OWN, rule(
    lambda xp, a, b: a * b, both := (lambda g, y, a, b: g * b, lambda g, y, a, b: g * a), both
), lambda s: (normal(s, 3, 2), normal(s + 1, 2)))  # fmt: skip
right(
    "the largest eigenvalue",
    OWN,
    rule(
        lambda xp, a: np.asarray(np.linalg.eigvalsh((a + a.T) / 2)[-1]),
        eig := (lambda g, y, a: g * ops.outer(vector(a), vector(a))),
        eig,
        "(n,n)->()",
    ),
    lambda s: normal(s, 3, 3),
)
right("a straight identity", OWN, rule(lambda xp, x: x * 1, same := (lambda g, y, x: g), same), lambda s: normal(s, 3))
right(
    "a rule that keeps a list of calls",
    OWN,
    rule(lambda xp, x: xp.exp(x), kept := (lambda g, y, x: (CALLS.append(1), g * y)[1]), kept),
    lambda s: normal(s, 3),
)
CALLS: list[int] = []


def vector(a: Any) -> np.ndarray:
    array = np.asarray(getattr(a, "data", a)) if isinstance(a, Tensor) else a
    return np.linalg.eigh((array + array.T) / 2)[1][:, -1]


# Order 2 of ordinary functions

for name, fn, draw in (
    ("exp", lambda x: x.exp(), normal), ("log", lambda x: x.log(), positive), ("sqrt", lambda x: x.sqrt(), positive),
    ("tanh", lambda x: x.tanh(), normal), ("power", lambda x: x**3.5, positive), ("division", lambda x: 1 / x, away),
    ("gelu", lambda x: x.gelu(), normal), ("logsumexp", lambda x: x.logsumexp(-1), normal), ("std", lambda x: x.std(), normal),
    ("prod", lambda x: x.prod(), away), ("norm", lambda x: ops.norm(x), away), ("erf", lambda x: x.erf(), normal),
):  # fmt: skip
    right(name, "order 2", fn, lambda s, draw=draw: draw(s, 3), order=2)
