"""Arguments for the audit: an op's own samples, selected to cover all kinds of calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorgrad.autograd import grad
from tensorgrad.core.backend import Array, is_floating
from tensorgrad.core.op import Op, Sample
from tensorgrad.core.signature import Shape
from tensorgrad.core.tensor import Tensor
from tensorgrad.ops.shape import broadcast_to
from tensorgrad.testing.report import Finding

TRIES = 40  # samples to try for one of the requested kind
EMPTY = (0, 1, 2)  # sizes of axes for empty arrays


def sampled(op: Op, seed: int, case: int) -> Sample:
    """Arguments and attributes for one case of an audit.

    The kinds are, case by case: unchanged; with leading axes; broadcast by an axis of size 1; by fewer axes; a 0-d number;
    empty; matrices. If the op's samples have none of that kind, matrices; otherwise unchanged.
    """
    kind = KINDS[case % len(KINDS)]
    for test in (kind, is_wide) if kind else ():
        for attempt in range(TRIES):
            sample = attempted(op, np.random.default_rng([seed, case, attempt]), test)
            if sample is not None:
                return sample
    return op.sample(np.random.default_rng([seed, case]))


def attempted(op: Op, rng: np.random.Generator, test: Callable[[Op, tuple[Any, ...]], bool]) -> Sample | None:
    """A sample if it is of the requested kind."""
    if test is not is_empty:
        args, attrs = op.sample(rng)
        return (args, attrs) if test(op, args) else None
    try:
        args, attrs = op.sample(rng, EMPTY)
        admitted = np.isfinite(op(*args, **attrs)).all()  # the mean of no elements is NaN
    except Exception:  # such as the maximum of no elements
        return None
    return (args, attrs) if admitted and test(op, args) else None


def leading_axes(op: Op, args: tuple[Any, ...]) -> list[Shape]:
    """The leading axes of each argument, before those that the op's signature names."""
    inputs = op.parsed.inputs
    if op.variadic or ("*",) in inputs:
        return []
    named = [sum(not axis.endswith("?") for axis in axes) for axes in inputs]
    return [a.shape[: a.ndim - n] for a, n, is_open in zip(args, named, op.parsed.leading, strict=False) if is_open]


def is_batched(op: Op, args: tuple[Any, ...]) -> bool:
    """Whether every argument that may have leading axes has some, with more than one element."""
    leading = leading_axes(op, args)
    return bool(leading) and all(any(n > 1 for n in lead) for lead in leading)


def is_widened(op: Op, args: tuple[Any, ...]) -> bool:
    """Whether an axis of size 1 is broadcast."""
    leading = leading_axes(op, args)
    return len(leading) > 1 and any(
        n == 1 and m > 1 for a in leading for b in leading for n, m in zip(a[::-1], b[::-1], strict=False)
    )  # fmt: skip


def is_shorter(op: Op, args: tuple[Any, ...]) -> bool:
    """Whether one argument has fewer leading axes than another, but at least one."""
    leading = leading_axes(op, args)
    return len(leading) > 1 and 0 < min(map(len, leading)) < max(map(len, leading))


def has_number(op: Op, args: tuple[Any, ...]) -> bool:
    """Whether one argument is 0-d."""
    return any(a.ndim == 0 for a in args)


def is_wide(op: Op, args: tuple[Any, ...]) -> bool:
    """Whether every argument has two axes with more than one element, so that none equals its transpose."""
    return all(sum(n > 1 for n in a.shape) > 1 for a in args)


def is_empty(op: Op, args: tuple[Any, ...]) -> bool:
    """Whether one argument is empty."""
    return any(a.size == 0 for a in args)


KINDS: tuple[Callable[[Op, tuple[Any, ...]], bool] | None, ...] = (
    None, is_batched, is_widened, is_shorter, has_number, is_empty, is_wide,
)  # fmt: skip


def in_other_order(op: Op, args: tuple[Any, ...], attrs: dict[str, Any]) -> list[Finding]:
    """A finding for each value or gradient that depends on the memory layout of the arguments or the incoming gradient.
    Compared to the last digits only, because the order of sums may change.
    """
    wrt = [i for i, a in enumerate(args) if is_floating(a.dtype) and not op.is_data(i)]

    def run(change: Callable[[Any], Any]) -> list[Array]:
        leaves = [Tensor(a, i in wrt) if is_floating(a.dtype) else a for i, a in enumerate(args)]
        y = op(*[change(x) for x in leaves], **attrs)
        cotangent = np.resize([1.0, -0.5, 0.25, -2.0, 1.5], y.shape)
        gradients = grad(y, [leaves[i] for i in wrt], change(Tensor(cotangent)), allow_unused=True)
        return [y.data, *[np.zeros(args[i].shape) if g is None else g.data for i, g in zip(wrt, gradients, strict=True)]]

    findings = []
    for name, a, b in zip(["value", *[f"input {i}" for i in wrt]], run(other_layout), run(lambda x: x), strict=True):
        close = a.shape == b.shape and bool((np.abs(a - b) <= 1e-10 * np.abs(b).max(initial=1e-300)).all())
        if not close:
            a, wrong = np.broadcast_to(a, b.shape), np.full(b.shape, "wrong")
            findings.append(
                Finding.of(f"{name}, in another order of memory", b.shape, 1, wrong, a, b, lambda at: f"{list(at)}")
            )
    return findings


def other_layout(x: Any) -> Any:
    """A view of the same numbers, recorded for a Tensor: matrices in column order, others with a stride of two."""
    if x.ndim > 1:
        flat = x.transpose().reshape(-1)  # a copy in column order
        return flat.reshape(x.shape[::-1]).transpose()
    if not x.ndim:
        return x
    return broadcast_to(x.reshape((-1, 1)), (x.size, 2)).reshape(-1)[::2]
