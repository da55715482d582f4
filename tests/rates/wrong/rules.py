"""The mistakes that people make in rules: axes, transposes, indices, terms and factors, the wrong variable."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.rates.faults import elementwise, normal, ops, positive, rule, wrong


def square_matrix(s: int) -> np.ndarray:
    return normal(s, 3, 3) + 3 * np.eye(3)


def flipped(x: Any, axis: int) -> Any:
    return ops.flip(x, axis)


# Axes

AXIS = "wrong axis"
add_up = lambda xp, x: x.sum(0)  # noqa: E731
wrong(
    "a sum over rows spread over columns", AXIS,
    rule(add_up, lambda g, y, x: g + 0 * x, lambda g, y, x: g.reshape(-1, 1) + 0 * x), lambda s: normal(s, 3, 3),
)  # fmt: skip
wrong(
    "a mean divided by the other axis", AXIS,
    rule(lambda xp, x: x.mean(0), lambda g, y, x: g / x.shape[0] + 0 * x, lambda g, y, x: g / x.shape[1] + 0 * x),
    lambda s: normal(s, 2, 4),
)  # fmt: skip
wrong(
    "cumsum along the other axis", AXIS,
    rule(
        lambda xp, x: x.cumsum(0),
        lambda g, y, x: flipped(ops.cumsum(flipped(g, 0), 0), 0),
        lambda g, y, x: flipped(ops.cumsum(flipped(g, 1), 1), 1),
    ),
    lambda s: normal(s, 3, 3),
)  # fmt: skip


def softmax_along(axis: int, sum_axis: int, with_sum: bool = True) -> Any:
    def forward(xp: Any, x: Any) -> Any:
        e = xp.exp(x)
        return e / e.sum(axis, keepdims=True)

    return rule(
        forward,
        lambda g, y, x: y * (g - (g * y).sum(axis, keepdims=True)),
        lambda g, y, x: y * (g - (g * y).sum(sum_axis, keepdims=True)) if with_sum else g * y,
    )


wrong("softmax with the sum along the other axis", AXIS, softmax_along(1, 0), lambda s: normal(s, 3, 4))
wrong("softmax with the sum over everything", AXIS, softmax_along(1, (0, 1)), lambda s: normal(s, 3, 4))  # type: ignore[arg-type]
wrong("squares summed along the wrong axis of three", AXIS, rule(
    lambda xp, x: (x * x).sum(1), lambda g, y, x: 2 * x * g.reshape(3, 1, 3), lambda g, y, x: 2 * x * g.reshape(3, 3, 1)
), lambda s: normal(s, 3, 3, 3))  # fmt: skip
wrong("repeat taken for tile", AXIS, rule(
    lambda xp, x: xp.repeat(x, 2), lambda g, y, x: g.reshape(-1, 2).sum(1), lambda g, y, x: g.reshape(2, -1).sum(0)
), lambda s: normal(s, 3))  # fmt: skip

# Transposes

TURNED = "transposed"
turn = lambda xp, a: xp.exp(a).T  # noqa: E731
wrong(
    "a transpose that is not undone", TURNED,
    rule(turn, lambda g, y, a: g.T * ops.exp(a), lambda g, y, a: g * ops.exp(a)), lambda s: normal(s, 3, 3),
)  # fmt: skip
times = lambda xp, a, b: a @ b  # noqa: E731
times_right = (lambda g, y, a, b: g @ b.T, lambda g, y, a, b: a.T @ g)
pair = lambda s: (normal(s, 3, 3), normal(s + 40, 3, 3))  # noqa: E731
wrong(
    "matmul, b not transposed", TURNED, rule(times, times_right, (lambda g, y, a, b: g @ b, lambda g, y, a, b: a.T @ g)), pair
)
wrong(
    "matmul, a not transposed", TURNED, rule(times, times_right, (lambda g, y, a, b: g @ b.T, lambda g, y, a, b: a @ g)), pair
)
wrong(
    "matmul, g transposed", TURNED, rule(times, times_right, (lambda g, y, a, b: g.T @ b.T, lambda g, y, a, b: a.T @ g)), pair
)
wrong("outer, the vectors traded", TURNED, rule(
    lambda xp, a, b: xp.outer(a, b), (lambda g, y, a, b: g @ b, lambda g, y, a, b: g.T @ a),
    (lambda g, y, a, b: g.T @ b, lambda g, y, a, b: g @ a),
), lambda s: (normal(s, 3), normal(s + 1, 3)))  # fmt: skip
wrong("a permutation undone by itself", TURNED, rule(
    lambda xp, x: x.transpose(1, 2, 0), lambda g, y, x: g.transpose(2, 0, 1), lambda g, y, x: g.transpose(1, 2, 0)
), lambda s: normal(s, 2, 2, 2))  # fmt: skip
wrong("a matrix times its own transpose, one side", TURNED, rule(
    lambda xp, a: a @ a.T, lambda g, y, a: (g + g.T) @ a, lambda g, y, a: 2 * g @ a
), lambda s: normal(s, 3, 3))  # fmt: skip

# Linear algebra

LINEAR = "linear algebra"
wrong("inv with one factor", LINEAR, rule(
    lambda xp, a: xp.linalg.inv(a), lambda g, y, a: -y.T @ g @ y.T, lambda g, y, a: -g @ y.T
), square_matrix)  # fmt: skip
wrong("inv without the minus", LINEAR, rule(
    lambda xp, a: xp.linalg.inv(a), lambda g, y, a: -y.T @ g @ y.T, lambda g, y, a: y.T @ g @ y.T
), square_matrix)  # fmt: skip
wrong("inv, not transposed", LINEAR, rule(
    lambda xp, a: xp.linalg.inv(a), lambda g, y, a: -y.T @ g @ y.T, lambda g, y, a: -y @ g @ y
), square_matrix)  # fmt: skip
wrong("det without the transpose", LINEAR, rule(
    lambda xp, a: xp.asarray(xp.linalg.det(a)), lambda g, y, a: g * y * ops.inv(a).T, lambda g, y, a: g * y * ops.inv(a),
    "(n,n)->()",
), square_matrix)  # fmt: skip
wrong("det without the determinant", LINEAR, rule(
    lambda xp, a: xp.asarray(xp.linalg.det(a)), lambda g, y, a: g * y * ops.inv(a).T, lambda g, y, a: g * ops.inv(a).T,
    "(n,n)->()",
), square_matrix)  # fmt: skip
wrong("trace over everything", LINEAR, rule(
    lambda xp, a: xp.asarray(xp.trace(a)), lambda g, y, a: g * np.eye(3), lambda g, y, a: g + 0 * a, "(n,n)->()"
), lambda s: normal(s, 3, 3))  # fmt: skip
wrong("solve without the transpose", LINEAR, rule(
    lambda xp, a, b: xp.linalg.solve(a, b),
    (lambda g, y, a, b: -ops.solve(a.T, g) @ y.T, lambda g, y, a, b: ops.solve(a.T, g)),
    (lambda g, y, a, b: -ops.solve(a.T, g) @ y.T, lambda g, y, a, b: ops.solve(a, g)),
), lambda s: (square_matrix(s), normal(s, 3, 2)))  # fmt: skip
wrong("solve without the matrix's gradient", LINEAR, rule(
    lambda xp, a, b: xp.linalg.solve(a, b),
    (lambda g, y, a, b: -ops.solve(a.T, g) @ y.T, lambda g, y, a, b: ops.solve(a.T, g)),
    (lambda g, y, a, b: 0 * a, lambda g, y, a, b: ops.solve(a.T, g)),
), lambda s: (square_matrix(s), normal(s, 3, 2)))  # fmt: skip

# Off by one

OFF = "off by one"


def shift(x: Any, k: int) -> Any:
    return ops.roll(x, k, 0)


wrong("a roll undone too far", OFF, rule(
    lambda xp, x: xp.roll(x, 1), lambda g, y, x: shift(g, -1), lambda g, y, x: shift(g, -2)
), lambda s: normal(s, 5))  # fmt: skip
wrong("a roll undone the wrong way", OFF, rule(
    lambda xp, x: xp.roll(x, 1), lambda g, y, x: shift(g, -1), lambda g, y, x: shift(g, 1)
), lambda s: normal(s, 5))  # fmt: skip
wrong("cumsum, its own place left out", OFF, rule(
    lambda xp, x: xp.cumsum(x), lambda g, y, x: ops.flip(ops.cumsum(ops.flip(g))),
    lambda g, y, x: ops.flip(ops.cumsum(ops.flip(g))) - g,
), lambda s: normal(s, 5))  # fmt: skip
wrong("cumsum, not from the end", "order reversed", rule(
    lambda xp, x: xp.cumsum(x), lambda g, y, x: ops.flip(ops.cumsum(ops.flip(g))), lambda g, y, x: ops.cumsum(g)
), lambda s: normal(s, 5))  # fmt: skip
wrong("flip not undone", "order reversed", rule(
    lambda xp, x: xp.exp(xp.flip(x)), lambda g, y, x: ops.flip(g * y), lambda g, y, x: g * y
), lambda s: normal(s, 4))  # fmt: skip
wrong("differences, the neighbour missed", OFF, rule(
    lambda xp, x: x[1:] - x[:-1], lambda g, y, x: ops.pad(g, (1, 0)) - ops.pad(g, (0, 1)),
    lambda g, y, x: ops.pad(g, (1, 0)) - ops.pad(g, (1, 0)) * 0.5 - ops.pad(g, (0, 1)) * 0.5,
), lambda s: normal(s, 5))  # fmt: skip
wrong("a slice put back one too early", OFF, rule(
    lambda xp, x: x[2:4] * 1.0, lambda g, y, x: ops.pad(g, (2, 1)), lambda g, y, x: ops.pad(g, (1, 2))
), lambda s: normal(s, 5))  # fmt: skip
wrong("convolution, the kernel shifted", OFF, rule(
    lambda xp, x: 0.5 * x[2:] + 2 * x[1:-1] - x[:-2],
    lambda g, y, x: ops.pad(g, (2, 0)) * 0.5 + ops.pad(g, (1, 1)) * 2 - ops.pad(g, (0, 2)),
    lambda g, y, x: ops.pad(g, (1, 1)) * 0.5 + ops.pad(g, (0, 2)) * 2 - ops.pad(g, (2, 0)),
), lambda s: normal(s, 6))  # fmt: skip
wrong("convolution, the kernel flipped", "order reversed", rule(
    lambda xp, x: 0.5 * x[2:] + 2 * x[1:-1] - x[:-2],
    lambda g, y, x: ops.pad(g, (2, 0)) * 0.5 + ops.pad(g, (1, 1)) * 2 - ops.pad(g, (0, 2)),
    lambda g, y, x: ops.pad(g, (0, 2)) * 0.5 + ops.pad(g, (1, 1)) * 2 - ops.pad(g, (2, 0)),
), lambda s: normal(s, 6))  # fmt: skip

# Indices

INDEX = "indices"
TWICE = np.array([0, 2, 0, 1])


def gathered(wrong_part: Any) -> Any:
    return rule(lambda xp, x: x[TWICE], lambda g, y, x: ops.put(g, TWICE, (4,)), wrong_part, reads="xs")


assigned = gathered(lambda g, y, x: ops.setitem(0 * x, g, TWICE))
wrong("repeated indices assigned, not added", INDEX, assigned, lambda s: normal(s, 4))
wrong(
    "only the first of a repeated index",
    INDEX,
    gathered(lambda g, y, x: ops.put(g * np.array([1.0, 1, 0, 1]), TWICE, (4,))),
    lambda s: normal(s, 4),
)
wrong(
    "another place of the index",
    INDEX,
    gathered(lambda g, y, x: ops.put(g, np.array([0, 2, 3, 1]), (4,))),
    lambda s: normal(s, 4),
)


def largest(xp: Any, x: Any) -> Any:
    return x.max(-1)


def of_largest(g: Any, x: Any, add: int = 0) -> Any:
    data = x.data if hasattr(x, "requires_grad") else x
    return g.reshape(-1, 1) * np.eye(x.shape[-1])[(data.argmax(-1) + add) % x.shape[-1]]


wrong("max to the neighbour of the largest", INDEX, rule(
    largest, lambda g, y, x: of_largest(g, x), lambda g, y, x: of_largest(g, x, 1)
), lambda s: normal(s, 3, 4))  # fmt: skip
wrong("max to every entry", INDEX, rule(
    largest, lambda g, y, x: of_largest(g, x), lambda g, y, x: g.reshape(-1, 1) / 4 + 0 * x
), lambda s: normal(s, 3, 4))  # fmt: skip
wrong("a sort, not undone", INDEX, rule(
    lambda xp, x: xp.sort(x), lambda g, y, x: g[np.argsort(np.argsort(np.asarray(getattr(x, "data", x))))], lambda g, y, x: g
), lambda s: normal(s, 5)[np.array([4, 0, 3, 1, 2])])  # fmt: skip

wrong("embedding, repeated rows assigned", INDEX, lambda w: embed(w), lambda s: normal(s, 4, 2))
ROWS = np.array([1, 3, 1, 0])
embed = rule(
    lambda xp, w: w[ROWS], lambda g, y, w: ops.put(g, ROWS, (4, 2)), lambda g, y, w: ops.setitem(0 * w, g, ROWS), reads="xs"
)

# Terms of a statistic, of a normalisation, of a loss

TERM = "a term forgotten"
wrong("softmax without the sum", TERM, softmax_along(-1, -1, False), lambda s: normal(s, 2, 4))
wrong("log-softmax without the sum", TERM, rule(
    lambda xp, z: z - xp.log(xp.exp(z).sum(-1, keepdims=True)),
    lambda g, y, z: g - ops.exp(y) * g.sum(-1, keepdims=True), lambda g, y, z: g - ops.exp(y) * g,
), lambda s: normal(s, 2, 4))  # fmt: skip


def normalised(xp: Any, x: Any) -> Any:
    return (x - x.mean(0)) / xp.sqrt(x.var(0) + 1e-5)


def deviation(x: Any) -> Any:
    return ops.sqrt(ops.var(x, 0) + 1e-5)


full_norm = lambda g, y, x: (g - ops.mean(g, 0) - y * ops.mean(g * y, 0)) / deviation(x)  # noqa: E731
rows = lambda s: normal(s, 5, 2)  # noqa: E731
wrong(
    "batch norm without the mean's term",
    TERM,
    rule(normalised, full_norm, lambda g, y, x: (g - y * ops.mean(g * y, 0)) / deviation(x)),
    rows,
)
wrong(
    "batch norm without the variance's term",
    TERM,
    rule(normalised, full_norm, lambda g, y, x: (g - ops.mean(g, 0)) / deviation(x)),
    rows,
)
wrong("batch norm without either", TERM, rule(normalised, full_norm, lambda g, y, x: g / deviation(x)), rows)
wrong(
    "variance, not centred",
    TERM,
    rule(
        lambda xp, x: xp.asarray(x.var()),
        lambda g, y, x: 2 * g * (x - x.mean()) / x.size,
        lambda g, y, x: 2 * g * x / x.size,
        "(*)->()",
    ),
    lambda s: normal(s, 5) + 1,
)
wrong("a product of three, one term", TERM, rule(
    lambda xp, x: x[0] * x[1] * x[2], lambda g, y, x: ops.stack([g * x[1] * x[2], g * x[0] * x[2], g * x[0] * x[1]]),
    lambda g, y, x: ops.stack([g * x[1] * x[2], g * x[0] * x[2], 0 * g]),
), lambda s: positive(s, 3, 2))  # fmt: skip
wrong("x sin x, the product rule by half", TERM, elementwise(
    lambda xp, x: x * xp.sin(x), lambda y, x: ops.sin(x) + x * ops.cos(x), lambda y, x: x * ops.cos(x)
), lambda s: normal(s, 4))  # fmt: skip
wrong(
    "swish, a sigmoid's derivative forgotten",
    TERM,
    elementwise(
        lambda xp, x: x / (1 + xp.exp(-x)),
        lambda y, x: ops.sigmoid(x) * (1 + x * (1 - ops.sigmoid(x))),
        lambda y, x: ops.sigmoid(x),
    ),
    lambda s: normal(s, 4),
)
wrong("cross-entropy without the labels", TERM, rule(
    lambda xp, z: xp.asarray((xp.log(xp.exp(z).sum(-1)) - z[:, 0]).mean()),
    lambda g, y, z: g * (ops.softmax(z) - np.eye(3)[[0] * 4]) / 4, lambda g, y, z: g * ops.softmax(z) / 4, "(*)->()",
), lambda s: normal(s, 4, 3))  # fmt: skip

COUNT = "a count or a constant"
wrong("cross-entropy, not divided by the batch", COUNT, rule(
    lambda xp, z: xp.asarray((xp.log(xp.exp(z).sum(-1)) - z[:, 0]).mean()),
    lambda g, y, z: g * (ops.softmax(z) - np.eye(3)[[0] * 4]) / 4, lambda g, y, z: g * (ops.softmax(z) - np.eye(3)[[0] * 4]),
    "(*)->()",
), lambda s: normal(s, 4, 3))  # fmt: skip
wrong("variance by n - 1", COUNT, rule(
    lambda xp, x: xp.asarray(x.var()), lambda g, y, x: 2 * g * (x - x.mean()) / x.size,
    lambda g, y, x: 2 * g * (x - x.mean()) / (x.size - 1), "(*)->()",
), lambda s: normal(s, 5))  # fmt: skip
wrong("a norm, not divided by itself", COUNT, rule(
    lambda xp, x: xp.sqrt((x * x).sum(-1)), lambda g, y, x: x * (g / y).reshape(-1, 1), lambda g, y, x: x * g.reshape(-1, 1)
), lambda s: normal(s, 3, 4))  # fmt: skip
wrong("std, divided by the variance", COUNT, rule(
    lambda xp, x: xp.asarray(x.std()), lambda g, y, x: g * (x - x.mean()) / (x.size * y),
    lambda g, y, x: g * (x - x.mean()) / (x.size * y * y), "(*)->()",
), lambda s: 2 * normal(s, 5))  # fmt: skip
wrong("a mean of 1,000 taken for one of 999", COUNT, rule(
    lambda xp, x: xp.asarray(x.mean()), lambda g, y, x: g / 1000 + 0 * x, lambda g, y, x: g / 999 + 0 * x, "(*)->()"
), lambda s: normal(s, 1000))  # fmt: skip
wrong("gelu's constant with a digit exchanged", COUNT, elementwise(
    lambda xp, x: 0.5 * x * (1 + xp.tanh(0.7978845608 * (x + 0.044715 * x**3))),
    lambda y, x: gelu_slope(x, 0.044715), lambda y, x: gelu_slope(x, 0.044175),
), lambda s: normal(s, 5) + 0.5)  # fmt: skip


def gelu_slope(x: Any, c: float) -> Any:
    t = ops.tanh(0.7978845608 * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608 * (1 + 3 * c * x * x)


wrong(
    "leaky ReLU with another slope",
    COUNT,
    elementwise(
        lambda xp, x: xp.where(x.real > 0, x, 0.2 * x),
        lambda y, x: ops.where(x > 0, 1.0, 0.2),
        lambda y, x: ops.where(x > 0, 1.0, 0.01),
    ),
    lambda s: np.concatenate([-positive(s, 2), positive(s, 2)]),
)
wrong("log2 without the logarithm of 2", COUNT, elementwise(
    lambda xp, x: xp.log(x) / 0.6931471805599453, lambda y, x: 1 / (x * 0.6931471805599453), lambda y, x: 1 / x
), lambda s: positive(s, 4))  # fmt: skip

VARIABLE = "the wrong variable"
wrong(
    "tanh by x instead of y",
    VARIABLE,
    elementwise(lambda xp, x: xp.tanh(x), lambda y, x: 1 - y * y, lambda y, x: 1 - x * x),
    lambda s: normal(s, 4),
)
wrong(
    "exp by x instead of y",
    VARIABLE,
    elementwise(lambda xp, x: xp.exp(x), lambda y, x: y, lambda y, x: x),
    lambda s: normal(s, 4),
)
wrong(
    "sqrt by x instead of y",
    VARIABLE,
    elementwise(lambda xp, x: xp.sqrt(x), lambda y, x: 0.5 / y, lambda y, x: 0.5 / x),
    lambda s: positive(s, 4),
)
wrong(
    "sigmoid by x instead of y",
    VARIABLE,
    elementwise(lambda xp, x: 1 / (1 + xp.exp(-x)), lambda y, x: y * (1 - y), lambda y, x: x * (1 - x)),
    lambda s: normal(s, 4),
)
wrong("a product, the inputs traded", VARIABLE, rule(
    lambda xp, a, b: a * a * b, (lambda g, y, a, b: 2 * g * a * b, lambda g, y, a, b: g * a * a),
    (lambda g, y, a, b: 2 * g * a * b, lambda g, y, a, b: g * b * b),
), lambda s: (normal(s, 3), normal(s + 3, 3)))  # fmt: skip
wrong("the derivative at the step before", VARIABLE, rule(
    lambda xp, x: xp.sin(x), lambda g, y, x: g * ops.cos(x), lambda g, y, x: g * ops.cos(ops.roll(x, 1))
), lambda s: normal(s, 4))  # fmt: skip
