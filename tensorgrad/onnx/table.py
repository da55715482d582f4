"""The one table of ops and their counterparts: COUNTERPARTS, which the files beside this one fill, and REFUSED."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from tensorgrad.core.op import REGISTRY, Op
from tensorgrad.onnx.writer import Use, Value, Writer

Counterpart: TypeAlias = Callable[[Writer, Use], Value]

COUNTERPARTS: dict[Op, Counterpart] = {}
REFUSED: dict[Op, str] = {}


class NoCounterpart(Exception):
    """Why one use of an op cannot be written."""


def counterpart(*names: str) -> Callable[[Counterpart], Counterpart]:
    """Say what ops of these names are written as: a function of the writer and of the use, which gives the result."""

    def keep(fn: Counterpart) -> Counterpart:
        for name in names:
            COUNTERPARTS[REGISTRY[name]] = fn
        return fn

    return keep


def refused(reason: str, *names: str) -> None:
    """Say why ops of these names have no counterpart."""
    for name in names:
        REFUSED[REGISTRY[name]] = reason
