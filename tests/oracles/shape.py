"""Oracles of tensorgrad/ops/shape.py."""

from __future__ import annotations

import numpy as np

ORACLES = {
    "reshape": lambda x, shape: x.reshape(shape),
    "transpose": lambda x, axes: np.transpose(x, axes),
    "broadcast_to": lambda x, shape: np.zeros(shape) + x,
}
