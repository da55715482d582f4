"""Oracles of tensorgrad/ops/functions.py."""

from __future__ import annotations

import numpy as np
from scipy import special

ORACLES = {
    "expm1": special.expm1,
    "hypot": lambda a, b: np.abs(a + 1j * b),
    "log2": lambda x: np.log(x) / np.log(2),
    "sqrt": lambda x: x**0.5,
    "square": lambda x: x * x,
    "reciprocal": lambda x: 1 / x,
    "sin": lambda x: np.exp(1j * x).imag,
    "cos": lambda x: np.exp(1j * x).real,
    "tan": lambda x: np.sin(x) / np.cos(x),
    "arcsin": lambda x: np.arctan2(x, np.sqrt(1 - x * x)),
    "arccos": lambda x: np.arctan2(np.sqrt(1 - x * x), x),
    "arctan": lambda x: np.arctan2(x, 1),
    "sinh": lambda x: (np.exp(x) - np.exp(-x)) / 2,
    "cosh": lambda x: (np.exp(x) + np.exp(-x)) / 2,
    "erf": special.erf,
}
