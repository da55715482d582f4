"""Initial values of weights: each returns a function of (shape, generator), shape being (in, out)."""

from __future__ import annotations

import math
from collections.abc import Callable
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


def fan_in_uniform() -> Init:
    """U(-a, a) with a = 1 / sqrt(in): what nn.Linear starts with unless told otherwise."""
    return lambda shape, rng: uniform(1 / math.sqrt(fans(shape)[0]))(shape, rng)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(in, out) of a weight; both at least 1, so that an empty layer has an initial value too."""
    if len(shape) != 2:
        raise ShapeError(f"init: expected a weight of shape (in, out), got {shape}")
    return max(shape[0], 1), max(shape[1], 1)
