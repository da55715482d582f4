"""Oracles of tensorgrad/ops/functions.py."""

from __future__ import annotations

import numpy as np
from scipy import special

ORACLES = {
    "expm1": special.expm1,
    "hypot": lambda a, b: np.abs(a + 1j * b),
    "log2": lambda x: np.log(x) / np.log(2),
    "log10": lambda x: np.log(x) / np.log(10),
    "logaddexp": lambda a, b: np.log(np.exp(a) + np.exp(b)),
    "sqrt": lambda x: x**0.5,
    "square": lambda x: x * x,
    "reciprocal": lambda x: 1 / x,
    "erf": special.erf,
}
