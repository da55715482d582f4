"""Oracles of tensorgrad/ops/statistics.py."""

from __future__ import annotations

from typing import Any

import numpy as np


def logsumexp(x: np.ndarray, axis: Any, keepdims: bool) -> Any:
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x).sum(axis=axis, keepdims=keepdims))  # values up to 2: nothing overflows


ORACLES = {
    "max": np.max,
    "min": np.min,
    "logsumexp": logsumexp,
    "norm": lambda x, axis, keepdims: np.sqrt(np.sum(np.abs(x) ** 2, axis=axis, keepdims=keepdims)),
    "cumsum": np.cumsum,
    "argmax": np.argmax,
    "argmin": np.argmin,
    "any": np.any,
    "all": np.all,
}
EMPTY_REFUSED = {
    "max": "zero-size array to reduction operation maximum which has no identity",
    "min": "zero-size array to reduction operation minimum which has no identity",
    "argmax": "attempt to get argmax of an empty sequence",
    "argmin": "attempt to get argmin of an empty sequence",
}
