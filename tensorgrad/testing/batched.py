"""Checks that an op treats leading axes independently: two samples in one call against each alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tensorgrad.autograd import fusion
from tensorgrad.core.backend import Array, is_floating
from tensorgrad.core.op import Op
from tensorgrad.core.state import switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.testing.paths import arrays, compare_gradients, walked
from tensorgrad.testing.report import Finding
from tensorgrad.testing.rounding import EPS, Rounding, close

FACTORS = (0.9, 1.1, 1.0)  # factors of the second sample; the first that stays in the domain is used


def batched(op: Op, args: Sequence[Any], attrs: Mapping[str, Any], seed: int = 0) -> list[Finding]:
    """Findings for gradients that differ when an op is called on two samples, stacked along a new first axis.

    args, attrs  of one sample; the other is derived from it. Arguments without leading axes are shared, and get the sum of the
                 gradients
    seed         of the incoming gradients

    No findings for an op that does not support this, or whose result is neither the stacked nor the summed results, as for a
    mean.
    """
    args = [np.asarray(a) if isinstance(a, np.generic) else a for a in args]
    shapes = stacked(op, args)
    if shapes is None:
        return []
    wrt = [i for i, a in enumerate(args) if is_floating(getattr(a, "dtype", np.dtype(bool))) and not op.is_data(i)]
    for factor in FACTORS:
        other = [np.asarray(a * factor) if i in wrt and shapes[i] is not None else a for i, a in enumerate(args)]
        with fusion.off(), switched(recording=True, tracing=True), np.errstate(all="ignore"):
            try:
                pair = Pair(op, [args, other], attrs, wrt, shapes)
            except Exception:  # does not support another axis, or not with these attributes
                return []
            if pair.is_finite:
                return pair.findings(seed)
    return []


class Pair:
    """Two samples, separate and stacked."""

    def __init__(
        self,
        op: Op,
        samples: Sequence[Sequence[Any]],
        attrs: Mapping[str, Any],
        wrt: Sequence[int],
        shapes: Sequence[tuple[int, ...] | None],
    ) -> None:
        self.wrt, self.shapes = wrt, [shapes[i] for i in wrt]
        stacks = [
            arguments[0] if shape is None else np.stack([a.reshape(shape) for a in arguments])
            for shape, *arguments in zip(shapes, *samples, strict=True)
        ]
        self.singles = [run(op, sample, attrs, wrt) for sample in samples]
        self.y, self.leaves = run(op, stacks, batched_attrs(attrs, np.ndim(samples[0][0])), wrt)
        self.each: Array = np.stack([y._data for y, _ in self.singles])

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.each).all())

    def matches(self, expected: Array) -> bool:
        """Whether the stacked call returned this."""
        return self.y.shape == expected.shape and bool(close(expected, self.y._data, 1e4 * EPS).all())

    def findings(self, seed: int) -> list[Finding]:
        """Findings if the results are stacked, or summed as in a loss; none for other results."""
        rng = np.random.default_rng(seed)
        if self.matches(self.each):
            stacked_upstream = upstream = rng.normal(size=self.each.shape)
        elif self.matches(self.each.sum(axis=0)):
            stacked_upstream = np.asarray(rng.normal(size=self.y.shape))
            upstream = np.stack([stacked_upstream, stacked_upstream])
        else:
            return []
        with switched(tracing=False):
            single_gradients = [
                arrays(walked([(y, wrap(np.array(g), None))], leaves, False), leaves)
                for (y, leaves), g in zip(self.singles, upstream, strict=True)
            ]
            actual = arrays(walked([(self.y, wrap(stacked_upstream, None))], self.leaves, False), self.leaves)
        expected = [
            sum(gradients) if shape is None else np.stack([g.reshape(shape) for g in gradients])
            for shape, *gradients in zip(self.shapes, *single_gradients, strict=True)
        ]

        def rounding() -> Rounding:
            gradients = walked([(self.y, wrap(stacked_upstream, None))], self.leaves, True)
            results = [wrap(a, None) for a in arrays(gradients, self.leaves)]
            return Rounding([a if g is None else g for g, a in zip(gradients, results, strict=True)])

        return compare_gradients([f"input {i} (batched)" for i in self.wrt], 1, expected, actual, rounding)


def stacked(op: Op, args: Sequence[Any]) -> list[tuple[int, ...] | None] | None:
    """The shape of each argument padded to the most leading axes, None for one without; None if no axis can be added."""
    inputs, leading = op.parsed.inputs, op.parsed.leading
    at = [min(i, len(inputs) - 1) for i in range(len(args))]
    if any("*" in inputs[k] for k in at) or not any(leading[k] for k in at):
        return None
    named = [len([axis for axis in inputs[k] if not axis.endswith("?")]) for k in at]
    max_ndim = max(np.ndim(a) - n for a, n, k in zip(args, named, at, strict=True) if leading[k])
    return [
        (1,) * (max_ndim - np.ndim(a) + n) + np.shape(a) if leading[k] and isinstance(a, np.ndarray) else None
        for a, n, k in zip(args, named, at, strict=True)
    ]


def batched_attrs(attrs: Mapping[str, Any], ndim: int) -> dict[str, Any]:
    """The attributes for arguments with one more leading axis."""
    result = dict(attrs)
    if "axis" in attrs:
        axis = tuple(range(ndim)) if attrs["axis"] is None else attrs["axis"]
        result["axis"] = tuple(map(shifted, axis)) if isinstance(axis, tuple) else shifted(axis)
    if isinstance(attrs.get("shape"), tuple):
        result["shape"] = (2, *attrs["shape"])
    if isinstance(attrs.get("axes"), tuple):
        result["axes"] = (0, *map(shifted, attrs["axes"]))
    if isinstance(attrs.get("index"), tuple):
        result["index"] = (slice(None), *attrs["index"])
    return result


def shifted(axis: int) -> int:
    return axis + 1 if axis >= 0 else axis


def run(op: Op, args: Sequence[Any], attrs: Mapping[str, Any], wrt: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """The result, and the leaves with respect to which it has a gradient."""
    tensors = [Tensor(a, i in wrt) if isinstance(a, np.ndarray) else a for i, a in enumerate(args)]
    return op(*tensors, **attrs), [tensors[i] for i in wrt]
