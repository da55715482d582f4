"""Wrong only for some shapes and layouts: where it broadcasts or does not, in batches, where memory is not in order."""

from __future__ import annotations

from typing import Any

from tests.rates.faults import normal, ops, rule, wrong

times = lambda xp, a, b: a @ b  # noqa: E731
# Broadcasting, shapes, memory

rows_and_row = lambda s: (normal(s, 3, 4), normal(s + 5, 4))  # noqa: E731
sums = "only where it broadcasts"
bias = (lambda g, y, a, b: g, lambda g, y, a, b: g.sum(0))
wrong(
    "a bias takes the mean, not the sum",
    sums,
    rule(lambda xp, a, b: a + b, bias, (bias[0], lambda g, y, a, b: g.mean(0))),
    rows_and_row,
)
wrong("a bias takes the last row", sums, rule(lambda xp, a, b: a + b, bias, (bias[0], lambda g, y, a, b: g[-1])), rows_and_row)
gain = (lambda g, y, a, b: g * b, lambda g, y, a, b: g * a)
wrong("a gain, its own factor when broadcast", sums, rule(
    lambda xp, a, b: a * b, gain, (gain[0], lambda g, y, a, b: g * a * (1.0 if a.shape == b.shape else 1.1))
), rows_and_row)  # fmt: skip
wrong(
    "a gain along a column",
    sums,
    rule(
        lambda xp, a, b: a * b,
        gain,
        (gain[0], lambda g, y, a, b: (g * a).sum(1, keepdims=True) / (1 if b.ndim == a.ndim and b.shape[1] != 1 else 4)),
    ),
    lambda s: (normal(s, 3, 4), normal(s + 5, 3, 1)),
)
wrong("only where it does not broadcast", "only where it does not broadcast", rule(
    lambda xp, a, b: a * b, gain, (lambda g, y, a, b: g * b * (2.0 if a.shape == b.shape else 1.0), gain[1])
), lambda s: (normal(s, 3, 4), normal(s + 5, 3, 4)))  # fmt: skip
wrong("a batch of matrices, only the first", "only batched", rule(
    times, (lambda g, y, a, b: g @ b.swapaxes(-1, -2), lambda g, y, a, b: a.swapaxes(-1, -2) @ g),
    (lambda g, y, a, b: g @ b.swapaxes(-1, -2), lambda g, y, a, b: (a.swapaxes(-1, -2) @ g)[0] if a.ndim == 3 else a.T @ g),
), lambda s: (normal(s, 3, 2, 2), normal(s + 5, 2, 2)))  # fmt: skip
wrong(
    "a batch of matrices, transposed as a whole",
    "only batched",
    rule(
        lambda xp, a: a.swapaxes(-1, -2) * 1.0,
        lambda g, y, a: g.swapaxes(-1, -2),
        lambda g, y, a: g.T if a.ndim < 3 else g.swapaxes(0, 2).swapaxes(0, 1),
    ),
    lambda s: normal(s, 2, 2, 2),
)
wrong("softmax of a batch along the first axis", "only batched", rule(
    lambda xp, x: xp.exp(x) / xp.exp(x).sum(-1, keepdims=True), lambda g, y, x: y * (g - (g * y).sum(-1, keepdims=True)),
    lambda g, y, x: y * (g - (g * y).sum(1 if x.ndim > 1 else -1, keepdims=True)),
), lambda s: normal(s, 2, 3, 3))  # fmt: skip


def lies_otherwise(x: Any) -> bool:
    return not (x.data if hasattr(x, "requires_grad") else x).flags.c_contiguous


def in_memory_order(g: Any) -> Any:
    """The elements as they lie in memory, in the shape that they should have."""
    return g.T.reshape(g.shape) if lies_otherwise(g) else g


NOT_ROWS = "only where memory is not in order"
tall = lambda s: normal(s, 3, 4)  # noqa: E731
exps = lambda forward: rule(lambda xp, x: xp.exp(x), lambda g, y, x: g * y, forward)  # noqa: E731
wrong("an input that is a transpose, inside", NOT_ROWS, lambda x: exp_of_input(x.T), tall)
wrong("an upstream gradient that is a transpose", NOT_ROWS, lambda x: exp_of_gradient(x).T, lambda s: normal(s, 3, 3))
wrong(
    "an upstream gradient that is every second entry",
    NOT_ROWS,
    lambda x: ops.stack([exp_times(x), x], 1),
    lambda s: normal(s, 4),
)
exp_of_input = exps(lambda g, y, x: g * in_memory_order(y) if lies_otherwise(x) else g * y)
exp_of_gradient = exps(lambda g, y, x: in_memory_order(g) * y)
exp_times = exps(lambda g, y, x: g * y * (2.0 if lies_otherwise(g) else 1.0))
