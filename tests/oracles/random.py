"""Oracles of tensorgrad/ops/random.py."""

from __future__ import annotations

import numpy as np

ORACLES = {  # where they are certain
    "keep_mask": lambda x, p, rng: np.full(np.shape(x), p == 0),
    "uniform": lambda x, low, high, rng: np.full(np.shape(x), low),
}
