"""Oracles of tensorgrad/ops/assign.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.oracles.index import filled


def setitem(x: np.ndarray, v: np.ndarray, index: Any) -> np.ndarray:
    """One element after the other, by its place in memory: of one that is named twice the last stays."""
    places = np.arange(x.size).reshape(x.shape)[index]
    y = np.array(x).reshape(-1)
    for place, value in zip(np.ravel(places), np.ravel(np.broadcast_to(v, np.shape(places))), strict=True):
        y[place] = value
    return y.reshape(x.shape)


def last_named(index: Any, shape: tuple[int, ...]) -> np.ndarray:
    places = np.arange(int(np.prod(shape, dtype=int))).reshape(shape)[index]
    flat = list(np.ravel(places))
    return np.array([place not in flat[i + 1 :] for i, place in enumerate(flat)], bool).reshape(np.shape(places))


ORACLES = {
    "setitem": setitem,
    "assign": lambda x, v, *arrays, index: setitem(x, v, filled(index, arrays)),
    "last_named": lambda *arrays, index, shape: last_named(filled(index, arrays), shape),
}
