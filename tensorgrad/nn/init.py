"""Initial values of weights: each returns a function of (shape, generator), shape being (in, out)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np

from tensorgrad.backend import Array
from tensorgrad.errors import ShapeError

Init: TypeAlias = Callable[[tuple[int, ...], np.random.Generator], Array]

_default = np.random.default_rng()


def seed(value: int | None) -> None:
    """Start the generator of initial values anew, so that what follows is reproducible."""
    global _default
    _default = np.random.default_rng(value)


@contextmanager
def seeded(rng: np.random.Generator) -> Iterator[None]:
    """Inside the block layers that are given no generator draw from `rng`."""
    global _default
    before, _default = _default, rng
    try:
        yield
    finally:
        _default = before


def generator() -> np.random.Generator:
    """The generator that layers draw from when they are given none."""
    return _default


def zeros() -> Init:
    """0 everywhere."""
    return lambda shape, rng: np.zeros(shape)


def normal(std: float) -> Init:
    """N(0, std²)."""
    return lambda shape, rng: rng.normal(0.0, std, shape)


def uniform(bound: float) -> Init:
    """U(-bound, bound)."""
    return lambda shape, rng: rng.uniform(-bound, bound, shape)


def xavier_uniform() -> Init:
    """U(-a, a) with a = sqrt(6 / (in + out)) (Glorot and Bengio 2010)."""
    return lambda shape, rng: uniform(math.sqrt(6 / sum(fans(shape))))(shape, rng)


def he_normal() -> Init:
    """N(0, 2 / in) (He et al. 2015), for layers before a ReLU."""
    return lambda shape, rng: normal(math.sqrt(2 / fans(shape)[0]))(shape, rng)


def xavier_normal() -> Init:
    """N(0, 2 / (in + out)) (Glorot and Bengio 2010)."""
    return lambda shape, rng: normal(math.sqrt(2 / sum(fans(shape))))(shape, rng)


def he_uniform() -> Init:
    """U(-a, a) with a = sqrt(6 / in) (He et al. 2015), for layers before a ReLU."""
    return lambda shape, rng: uniform(math.sqrt(6 / fans(shape)[0]))(shape, rng)


def orthogonal(gain: float = 1.0) -> Init:
    """gain times a random matrix whose rows or columns, the fewer, are orthonormal (Saxe et al. 2014)."""

    def make(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        rows, columns = shape[0], int(np.prod(shape[1:], dtype=int))
        q, r = np.linalg.qr(rng.normal(size=(max(rows, columns), min(rows, columns))))
        q *= np.sign(np.diag(r))  # without it the distribution is not uniform
        return gain * (q if rows >= columns else q.T).reshape(shape)

    return make


def fan_in_uniform() -> Init:
    """U(-a, a) with a = 1 / sqrt(in): what nn.Linear starts with unless told otherwise."""
    return lambda shape, rng: uniform(1 / math.sqrt(fans(shape)[0]))(shape, rng)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(in, out) of a weight (in, out), or (out, in, height, width) of a convolution, where a window's elements count too.

    Both at least 1, so that an empty layer has an initial value too.
    """
    if len(shape) == 2:
        return max(shape[0], 1), max(shape[1], 1)
    if len(shape) == 4:
        window = shape[2] * shape[3]
        return max(shape[1] * window, 1), max(shape[0] * window, 1)
    raise ShapeError(f"init: expected a weight of shape (in, out) or (out, in, height, width), got {shape}")
