"""The table of ops and their counterparts: COUNTERPARTS, filled by the other modules, and REFUSED."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from tensorgrad.core.op import REGISTRY, Op
from tensorgrad.onnx.writer import Use, Value, Writer

Counterpart: TypeAlias = Callable[[Writer, Use], Value]

COUNTERPARTS: dict[Op, Counterpart] = {}
UNSUPPORTED: dict[Op, str] = {}


class NoCounterpart(Exception):
    """The reason why one use of an op cannot be exported."""


def counterpart(*names: str) -> Callable[[Counterpart], Counterpart]:
    """Register the exporter of ops with these names: a function of the writer and the use that returns the result."""

    def register(fn: Counterpart) -> Counterpart:
        for name in names:
            COUNTERPARTS[REGISTRY[name]] = fn
        return fn

    return register


def unsupported(reason: str, *names: str) -> None:
    """Register the reason why ops with these names have no counterpart."""
    for name in names:
        UNSUPPORTED[REGISTRY[name]] = reason
