"""Oracles of tensorgrad/ops/trigonometry.py."""

from __future__ import annotations

import numpy as np

ORACLES = {
    "arctan2": lambda a, b: np.angle(b + 1j * a),
    "sin": lambda x: np.exp(1j * x).imag,
    "cos": lambda x: np.exp(1j * x).real,
    "tan": lambda x: np.sin(x) / np.cos(x),
    "arcsin": lambda x: np.arctan2(x, np.sqrt(1 - x * x)),
    "arccos": lambda x: np.arctan2(np.sqrt(1 - x * x), x),
    "arctan": lambda x: np.arctan2(x, 1),
    "sinh": lambda x: (np.exp(x) - np.exp(-x)) / 2,
    "cosh": lambda x: (np.exp(x) + np.exp(-x)) / 2,
}
