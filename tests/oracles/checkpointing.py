"""Oracle of tensorgrad/checkpointing.py."""

from __future__ import annotations

ORACLES = {
    "checkpoint": lambda x, fn: x**3,
}
