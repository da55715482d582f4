"""Initial values of weights: each returns a function of (shape, generator), shape being (in, out)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.state import state, switched
from tensorgrad.errors import ShapeError

Init: TypeAlias = Callable[[tuple[int, ...], np.random.Generator], Array]

_default = np.random.default_rng()


def seed(value: int | None) -> None:
    """Seed the generator of initial values, for reproducible models."""
    global _default
    _default = np.random.default_rng(value)


@contextmanager
def seeded(rng: np.random.Generator) -> Iterator[None]:
    """Context manager: layers created in it by this thread without a generator draw from `rng`."""
    with switched(initial=rng):
        yield


def generator() -> np.random.Generator:
    """The default generator of initial values."""
    return _default if state.initial is None else state.initial


# Module-level functions and `partial`s of them, so that estimators that hold one can be pickled


def _zeros(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    return np.zeros(shape)


def _normal(std: float, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    return rng.normal(0.0, std, shape)


def _uniform(bound: float, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    return rng.uniform(-bound, bound, shape)


def _by_in(draw: Callable[..., Array], k: float, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    return draw(math.sqrt(k / fans(shape)[0]), shape, rng)


def _by_both(draw: Callable[..., Array], k: float, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    return draw(math.sqrt(k / sum(fans(shape))), shape, rng)


def _orthogonal(gain: float, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    rows, columns = shape[0], int(np.prod(shape[1:], dtype=int))
    q, r = np.linalg.qr(rng.normal(size=(max(rows, columns), min(rows, columns))))
    q *= np.sign(np.diag(r))  # without it the distribution is not uniform
    return gain * (q if rows >= columns else q.T).reshape(shape)


def zeros() -> Init:
    """0 everywhere."""
    return _zeros


def normal(std: float) -> Init:
    """N(0, std²)."""
    return partial(_normal, std)


def uniform(bound: float) -> Init:
    """U(-bound, bound)."""
    return partial(_uniform, bound)


def xavier_uniform() -> Init:
    """U(-a, a) with a = sqrt(6 / (in + out)) (Glorot and Bengio 2010)."""
    return partial(_by_both, _uniform, 6)


def he_normal() -> Init:
    """N(0, 2 / in) (He et al. 2015), for layers before a ReLU."""
    return partial(_by_in, _normal, 2)


def xavier_normal() -> Init:
    """N(0, 2 / (in + out)) (Glorot and Bengio 2010)."""
    return partial(_by_both, _normal, 2)


def he_uniform() -> Init:
    """U(-a, a) with a = sqrt(6 / in) (He et al. 2015), for layers before a ReLU."""
    return partial(_by_in, _uniform, 6)


def orthogonal(gain: float = 1.0) -> Init:
    """gain times a random matrix with orthonormal rows or columns, whichever are fewer (Saxe et al. 2014)."""
    return partial(_orthogonal, gain)


def fan_in_uniform() -> Init:
    """U(-a, a) with a = 1 / sqrt(in), the default of nn.Linear."""
    return partial(_by_in, _uniform, 1)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(in, out) of a weight (in, out), or of a convolution's (out, in, height, width), times the size of a window.

    Both at least 1, so that empty layers can be initialised.
    """
    if len(shape) == 2:
        return max(shape[0], 1), max(shape[1], 1)
    if len(shape) == 4:
        window = shape[2] * shape[3]
        return max(shape[1] * window, 1), max(shape[0] * window, 1)
    raise ShapeError(f"init: expected a weight of shape (in, out) or (out, in, height, width), got {shape}")


# Functions that return an initialiser, by name
MAKERS = tuple(
    name for name, function in list(globals().items()) if getattr(function, "__annotations__", {}).get("return") == "Init"
)
