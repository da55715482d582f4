"""Oracles of tensorgrad/ops/rearrange.py."""

from __future__ import annotations

import numpy as np

ORACLES = {"concatenate": lambda *xs, axis: np.concatenate(xs, axis)}
