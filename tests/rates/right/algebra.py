"""Right functions of matrices near singularity, of extreme logits, and of shapes that are easily forgotten."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorgrad import Tensor
from tensorgrad.nn import functional as F
from tests.rates.faults import away, normal, ops, positive, right

# Condition


def conditioned(s: int, digits: float, n: int = 4, symmetric: bool = False) -> np.ndarray:
    """An n by n matrix of that condition number, in powers of ten."""
    u = np.linalg.qr(normal(s, n, n))[0]
    v = u if symmetric else np.linalg.qr(normal(s + 1, n, n))[0]
    return u @ np.diag(np.logspace(0, -digits, n)) @ v.T


HARD = "badly conditioned"
for digits in (3, 6, 9, 12):
    said = "ok" if digits < 6 else "ok precision"
    right(f"inv at 1e{digits}", HARD, lambda a: ops.inv(a), lambda s, d=digits: conditioned(s, d), said)
    right(
        f"solve at 1e{digits}",
        HARD,
        lambda a, b: ops.solve(a, b),
        lambda s, d=digits: (conditioned(s, d), normal(s, 4, 2)),
        said,
    )
    right(f"det at 1e{digits}", HARD, lambda a: ops.det(a), lambda s, d=digits: conditioned(s, d), said)
    right(f"logabsdet at 1e{digits}", HARD, lambda a: ops.logabsdet(a), lambda s, d=digits: conditioned(s, d), said)
    right(
        f"cholesky at 1e{digits}",
        HARD,
        lambda a: ops.cholesky((a + a.T) / 2),
        lambda s, d=digits: conditioned(s, d, symmetric=True) + 0,
        said,
    )
right(
    "inv of a symmetric matrix at 1e9", HARD, lambda a: ops.inv(a), lambda s: conditioned(s, 9, symmetric=True), "ok precision"
)
right("a matrix of 1e-8", HARD, lambda a: ops.inv(a), lambda s: 1e-8 * (normal(s, 3, 3) + 3 * np.eye(3)))
right("a matrix of 1e8", HARD, lambda a: ops.det(a), lambda s: 1e8 * (normal(s, 3, 3) + 3 * np.eye(3)))
right(
    "rows of different size",
    HARD,
    lambda a: ops.inv(a),
    lambda s: np.diag([1e-6, 1.0, 1e6]) @ (normal(s, 3, 3) + 4 * np.eye(3)),
    "ok precision",
)
right("inv of inv", HARD, lambda a: ops.inv(ops.inv(a)), lambda s: normal(s, 3, 3) + 3 * np.eye(3), "ok precision")
right("a @ inv(a), a constant", HARD, lambda a: a @ ops.inv(a), lambda s: normal(s, 3, 3) + 3 * np.eye(3), "ok precision")
right(
    "det of a singular matrix",
    HARD,
    lambda a: ops.det(a),
    lambda s: np.outer(normal(s, 2), normal(s + 1, 2)) * 0 + np.diag([1.0, 0.5]),
    "ok",
)
right(
    "solve, a Hilbert matrix",
    HARD,
    lambda b: ops.solve(1 / (np.arange(6)[:, None] + np.arange(6) + 1.0), b),
    lambda s: normal(s, 6, 1),
    "ok precision",
)
right("a Gram matrix inverted", HARD, lambda x: ops.inv(x.T @ x), lambda s: normal(s, 6, 3))
right("inv, order 2", HARD, lambda a: ops.inv(a), lambda s: normal(s, 2, 2) + 3 * np.eye(2), order=2)
right("inv at 1e6, order 2", HARD, lambda a: ops.inv(a), lambda s: conditioned(s, 6, 3), "ok precision", order=2)
right("cholesky, order 2", HARD, lambda a: ops.cholesky(a @ a.T + np.eye(2)), lambda s: normal(s, 2, 2), order=2)
right("logabsdet, order 2", HARD, lambda a: ops.logabsdet(a), lambda s: normal(s, 2, 2) + 3 * np.eye(2), order=2)

# Logits

EXTREME = "extreme logits"
LABELS = np.array([0, 2, 1])
LOST = "ok precision"  # in 1 - y the digits of a probability near 1 are lost: an entry of 1e-40 is recorded as 0
for c in (10.0, 100.0, 1000.0):
    right(f"softmax at ±{c:g}", EXTREME, lambda z: z.softmax(-1), lambda s, c=c: c * away(s, 2, 3, least=0.8), LOST)
    right(
        f"cross-entropy at ±{c:g}",
        EXTREME,
        lambda z: F.cross_entropy(z, LABELS),
        lambda s, c=c: c * away(s, 3, 3, least=0.8),
        LOST,
    )
    right(f"logsumexp at ±{c:g}", EXTREME, lambda z: z.logsumexp(-1), lambda s, c=c: c * away(s, 2, 3, least=0.8))
    right(
        f"binary cross-entropy at ±{c:g}",
        EXTREME,
        lambda z: F.binary_cross_entropy_with_logits(z, np.array([0.0, 1, 0.3])),
        lambda s, c=c: c * away(s, 3),
    )
    right(f"softplus and sigmoid at ±{c:g}", EXTREME, lambda z: z.softplus() * z.sigmoid(), lambda s, c=c: c * away(s, 3))


def log_sum_exp(z: Tensor) -> Tensor:
    """The largest taken off first: its gradient cancels, so it is detached."""
    m = z.max(-1, True).detach()
    return (z - m).exp().sum(-1).log() + m.reshape(-1)


def spelled_softmax(z: Tensor) -> Tensor:
    e = (z - z.max(-1, True).detach()).exp()
    return e / e.sum(-1, True)


def by_numpy(z: Tensor) -> Tensor:
    e = (z - z.data.max(-1, keepdims=True)).exp()
    return e / e.sum(-1, True)


SHIFT = "a shift that cancels, detached"
for name, fn in (("log-sum-exp", log_sum_exp), ("softmax", spelled_softmax), ("softmax, the largest by NumPy", by_numpy)):
    right(name, SHIFT, fn, lambda s: normal(s, 2, 3), known="a shift of all logits does not change the value")
    right(
        f"{name} at ±100",
        SHIFT,
        fn,
        lambda s: 100 * away(s, 2, 3),
        LOST,
        known="a shift of all logits does not change the value",
    )
    right(f"{name}, order 2", SHIFT, fn, lambda s: normal(s, 2, 3), order=2)
right(
    "a mean taken off under a variance",
    SHIFT,
    lambda x: ((x - x.mean().detach()) ** 2).sum(),
    lambda s: normal(s, 4),
    known="the sum of what is left is 0",
)
right(
    "a detached value that is added and taken off", SHIFT, lambda x: x.sin() + x.detach() - x.detach(), lambda s: normal(s, 3)
)
right("a detached factor that is 0", SHIFT, lambda x: x.sin() + 0 * x.detach().exp(), lambda s: normal(s, 3))
right(
    "a scale that cancels, detached",
    SHIFT,
    lambda x: (x / ops.norm(x).detach()) / ops.norm(x / ops.norm(x).detach()),
    lambda s: normal(s, 3),
)
right("a detached argmax", SHIFT, lambda z: z[np.arange(2), z.data.argmax(1)], lambda s: normal(s, 2, 3))
right("rows in a detached order", SHIFT, lambda x: x[np.argsort(x.data)] * np.arange(4), lambda s: normal(s, 4))
right("a detached mask", SHIFT, lambda x: (x * (x.data > 0)).sin(), lambda s: away(s, 4))
right("a branch on a value", SHIFT, lambda x: x.sin() if x.data.sum() > 0 else x.cos(), lambda s: away(s, 3))
right("a loop that ends by a value", SHIFT, lambda x: grown(x), lambda s: positive(s, 3))
right("an exponent out of the shape", SHIFT, lambda x: x**x.ndim * x.shape[0], lambda s: normal(s, 2, 2))


def grown(x: Tensor) -> Tensor:
    while float(x.data.max()) < 10:
        x = x * 1.7
    return x


# Shapes and dtypes

SHAPES = "empty, 0-d and odd shapes"
right("0-d", SHAPES, lambda x: x.sin(), lambda s: np.array(0.3 + s))
right("a Python float", SHAPES, lambda x: x.exp(), lambda s: 0.3 + s / 40)
right("empty", SHAPES, lambda x: x.sin(), lambda s: np.zeros((0, 3)))
right("empty beside full", SHAPES, lambda a, b: a.sin().sum() + b.sin().sum(), lambda s: (np.zeros((0, 3)), normal(s, 2)))
right("an empty output beside full", SHAPES, lambda x: (x[:0], x.sin()), lambda s: normal(s, 3))
right("a mean of one", SHAPES, lambda x: x.mean() * x.std(), lambda s: normal(s, 3))
right("axes of one", SHAPES, lambda x: x.sum(1, True) * x, lambda s: normal(s, 1, 1, 3))
right("an integer input", SHAPES, lambda x, i: x[i].exp(), lambda s: (normal(s, 4), np.array([2, 0])))
right(
    "a boolean input",
    SHAPES,
    lambda x, m: ops.where(m, x.exp(), x.sin()),
    lambda s: (normal(s, 3), np.array([True, False, True])),
)
right("an input that is not used", SHAPES, lambda a, b: a.sin(), lambda s: (normal(s, 2), normal(s, 3)))
right("an input handed back", SHAPES, lambda x: (x, x.sin()), lambda s: normal(s, 3))
right("a Fortran array", SHAPES, lambda x: x.T.exp() @ x, lambda s: np.asfortranarray(normal(s, 3, 2)))
right("every second entry", SHAPES, lambda x: x.exp().cumsum(0), lambda s: normal(s, 8)[::2])
right("backwards", SHAPES, lambda x: x.exp().cumsum(0), lambda s: normal(s, 4)[::-1])
right(
    "broadcast over three axes",
    SHAPES,
    lambda a, b, c: a * b + c,
    lambda s: (normal(s, 2, 1, 2), normal(s, 3, 1), normal(s, 2)),
)
right("float32", SHAPES, lambda x: x.exp().sum(), lambda s: normal(s, 3).astype(np.float32))
right("float32 and float64", SHAPES, lambda a, b: a * b, lambda s: (normal(s, 3).astype(np.float32), normal(s, 3)))
right("read-only", SHAPES, lambda x: x.exp(), lambda s: np.broadcast_to(normal(s, 3), (2, 3)))
right("a dict of outputs' parts", SHAPES, lambda x: [x.sin(), x.sum()], lambda s: normal(s, 3))

# Indices, products, pools

INDEX = "indices, products, windows"
right("repeated indices", INDEX, lambda x: x[np.array([0, 1, 0, 0])] ** 2, lambda s: normal(s, 3))
right("a mask as an index", INDEX, lambda x: x[x.data > 0].exp().sum(), lambda s: away(s, 5))
right("negative steps", INDEX, lambda x: x[::-2] * x[:2], lambda s: normal(s, 4))
right("an index and a slice", INDEX, lambda x: x[np.array([1, 1]), :, 0] * 2, lambda s: normal(s, 2, 3, 2))
right(
    "take along an axis", INDEX, lambda x: ops.take_along_axis(x, np.argsort(x.data, 1), 1).cumsum(1), lambda s: normal(s, 2, 4)
)
right(
    "an assignment", INDEX, lambda x, v: ops.setitem(x.sin(), v, np.array([0, 2])), lambda s: (normal(s, 4), normal(s + 1, 2))
)


def assigned(x: Tensor, v: Tensor) -> Tensor:
    y = x * 2
    y[1:3] = v.exp()
    y[0] = y[3]
    return y * x


right("assignments in place", INDEX, assigned, lambda s: (normal(s, 4), normal(s + 1, 2)))
right(
    "einsum, a trace and a transpose",
    INDEX,
    lambda a, b: ops.einsum("ij,kj->ik", a, b) + ops.einsum("ii", a @ b.T),
    lambda s: (normal(s, 3, 3), normal(s + 1, 3, 3)),
)
right(
    "einsum, a batch",
    INDEX,
    lambda a, b: ops.einsum("bij,bjk->bik", a, b),
    lambda s: (normal(s, 2, 2, 3), normal(s + 1, 2, 3, 2)),
)
right(
    "conv2d",
    INDEX,
    lambda x, w, b: ops.conv2d(x, w, b, 1, 1),
    lambda s: (normal(s, 1, 2, 4, 4), normal(s + 1, 2, 2, 3, 3), normal(s + 2, 2)),
)
right(
    "conv2d with a stride, then a pool",
    INDEX,
    lambda x, w: ops.max_pool2d(ops.conv2d(x, w, None, 2), 2),
    lambda s: (normal(s, 1, 1, 9, 9), normal(s + 1, 1, 1, 3, 3)),
)
right("avg_pool2d", INDEX, lambda x: ops.avg_pool2d(x, 2).exp(), lambda s: normal(s, 1, 1, 4, 4))
right(
    "pad, roll, repeat, tile",
    INDEX,
    lambda x: ops.tile(ops.repeat(ops.roll(ops.pad(x, 1), 1), 2), 2) ** 2,
    lambda s: normal(s, 3),
)
right("cumsum and flip", INDEX, lambda x: ops.flip(x.cumsum(0)) * x, lambda s: normal(s, 5))
right("triangles", INDEX, lambda x: x.tril() @ x.triu(), lambda s: normal(s, 3, 3))
right("outer and diagonal", INDEX, lambda a, b: ops.outer(a, b).diagonal() * a, lambda s: (normal(s, 3), normal(s + 1, 3)))
right(
    "concatenate and split",
    INDEX,
    lambda a, b: ops.split(ops.concatenate(a, b, axis=0).exp(), 2),
    lambda s: (normal(s, 2), normal(s + 1, 4)),
)
right(
    "masked with -inf",
    INDEX,
    lambda x: ops.where(np.tril(np.ones((3, 3))) > 0, x @ x.T, -np.inf).softmax(-1),
    lambda s: normal(s, 3, 2),
)
right(
    "what a mask leaves out",
    INDEX,
    lambda x: ops.where(x.data > 0, ops.sqrt(x) / x, x),
    lambda s: np.array([0.0, 4.0, -1.0]) + np.array([0, s, 0]),
    "ok kink non-finite",
)


def loop(x: Any) -> Any:
    for _ in range(60):
        x = (x * 0.9 + 0.1).sin()
    return x


right("sixty steps of a map", INDEX, loop, lambda s: normal(s, 2))
right("a chaotic map", INDEX, lambda x: logistic(x), lambda s: 0.2 + 0.6 * np.random.default_rng(s).random(2), "ok precision")


def logistic(x: Any) -> Any:
    for _ in range(20):
        x = 3.9 * x * (1 - x)
    return x
