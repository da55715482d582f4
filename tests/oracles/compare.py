"""Oracles of tensorgrad/ops/compare.py."""

from __future__ import annotations

import numpy as np

ORACLES = {
    "greater": lambda a, b: np.sign(a - b) == 1,
    "greater_equal": lambda a, b: np.sign(a - b) != -1,
    "less": lambda a, b: np.sign(a - b) == -1,
    "less_equal": lambda a, b: np.sign(a - b) != 1,
    "equal": lambda a, b: np.sign(a - b) == 0,
    "not_equal": lambda a, b: np.sign(a - b) != 0,
    "logical_not": lambda x: x == 0,
    "isnan": lambda x: x != x,
    "isfinite": lambda x: np.abs(x) <= np.finfo(np.float64).max,
}
