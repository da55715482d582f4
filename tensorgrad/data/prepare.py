"""Scaling, splitting and batching."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tensorgrad.core.backend import Array, is_floating
from tensorgrad.core.ranks import Part, ranks
from tensorgrad.errors import ShapeError


def min_max(x: Array) -> Array:
    """Scale each sample of x (m, ...) to 0 .. 1 by its own minimum and maximum; a constant sample becomes 0.

    Floats keep their dtype, integers become float32. Raises ShapeError for an array with one axis.
    """
    if x.ndim < 2:
        raise ShapeError(f"min_max: x has shape {x.shape}, expected (samples, ...)")
    if not is_floating(x.dtype):
        x = x.astype(np.float32)
    axes = tuple(range(1, x.ndim))
    low, high = x.min(axis=axes, keepdims=True), x.max(axis=axes, keepdims=True)
    with np.errstate(over="ignore"):
        span = high - low
    if np.isfinite([low, high]).all() and not np.isfinite(span).all():  # the range may overflow though its ends do not
        return (min_max(x.astype(np.float64)) if x.dtype.itemsize < 8 else min_max(x / 2)).astype(x.dtype)
    scaled = x - low
    scaled /= np.where(span == 0, 1, span)
    return scaled


def split(x: Array, y: Array, *fractions: float, seed: int, stratify: bool = False) -> tuple[Array, ...]:
    """Shuffle x and y by `seed` and split them: (x, y) of the remainder, then (x, y) for each fraction.

    fractions  fraction of the samples in each part, rounded up to whole samples: 0.1, 0.2 returns
               x_train, y_train, x_dev, y_dev, x_test, y_test
    stratify   True for equal proportions of each class (value of y) in every part, up to one or two samples

    Raises ShapeError if x and y have different numbers of samples, ValueError if a fraction is not between 0 and 1 or there is
    no remainder.
    """
    x, y = (np.asarray(values) if isinstance(values, (list, tuple)) else values for values in (x, y))
    if len(x) != len(y):
        raise ShapeError(f"split: {len(x)} samples but {len(y)} labels")
    for fraction in fractions:
        if not 0 < fraction < 1:
            raise ValueError(f"split: fraction must be between 0 and 1, got {fraction}")
    # 7 % of 100 samples are 7, though 100 * 0.07 is above 7
    sizes = [math.ceil(round(len(x) * fraction, 9)) for fraction in fractions]
    if sum(sizes) >= len(x):
        raise ValueError(f"split: parts of {', '.join(map(str, sizes))} samples leave none of the {len(x)} for the rest")
    rng = np.random.default_rng(seed)
    remaining = rng.permutation(len(x))
    classes = np.unique(y, axis=0, return_inverse=True)[1].reshape(-1) if stratify else np.zeros(len(x), np.intp)
    parts = []
    for size in sizes:
        selected = _stratified(classes[remaining], size, rng)
        parts.append(remaining[selected])
        remaining = remaining[~selected]
    return tuple(array[part] for part in (remaining, *parts) for array in (x, y))


def _stratified(classes: Array, size: int, rng: np.random.Generator) -> Array:
    """Select `size` samples with the classes in proportion, the first ones of each class.

    Numbers per class are rounded by the largest remainders (https://en.wikipedia.org/wiki/Quota_method), with random ties.
    """
    counts = np.bincount(classes)
    quota, remainder = np.divmod(counts * size, len(classes))
    lot = np.lexsort((rng.permutation(len(counts)), -remainder))
    quota[lot[: size - quota.sum()]] += 1
    order = np.argsort(classes, kind="stable")
    rank = np.empty(len(classes), np.intp)  # the index of each sample within its class
    rank[order] = np.arange(len(classes)) - np.repeat(np.cumsum(counts) - counts, counts)
    selected: Array = rank < quota[classes]
    return selected


def batches(x: Array, y: Array, batch_size: int, rng: np.random.Generator | None = None) -> Iterator[tuple[Array, Array]]:
    """Iterate over (x, y) in batches for one epoch, shuffled if a generator is given; the last batch may be smaller.

    With several ranks (`tensorgrad.distributed`) each gets its part of every batch; their generators must be in the same state.
    """
    if len(x) != len(y):
        raise ShapeError(f"batches: {len(x)} samples but {len(y)} labels")
    if batch_size < 1:
        raise ValueError(f"batches: batch_size must be at least 1, got {batch_size}")
    order = rng.permutation(len(x)) if rng is not None else None
    outer_part = rank_part = ranks.part
    try:
        for begin in range(0, len(x), batch_size):
            rank_part = Part.of(min(batch_size, len(x) - begin))
            start, stop = begin + rank_part.start, begin + rank_part.stop
            rows = slice(start, stop) if order is None else order[start:stop]
            if ranks.group is not None:
                ranks.part = rank_part
            yield x[rows], y[rows]
    finally:
        if ranks.part is rank_part:
            ranks.part = outer_part
