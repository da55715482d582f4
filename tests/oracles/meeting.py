"""Oracles of tensorgrad/ops/meeting.py, of one process; of several see tests/distributed."""

from __future__ import annotations

ORACLES = {"all_reduce": lambda x: x}
