"""Runs of a model that are not to be seen in it afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from tensorgrad.core.backend import copy
from tensorgrad.nn.module import Module
from tensorgrad.ops import random


def generators_of(modules: Iterable[Module]) -> list[np.random.Generator]:
    """What random numbers are drawn from: the generator of dropout, and those that modules have as attributes."""
    return [random.default(), *(v for module in modules for v in vars(module).values() if isinstance(v, np.random.Generator))]


@contextmanager
def left_as_they_were(modules: list[Module]) -> Iterator[None]:
    """What a run of modules changes besides is put back: buffers, and what random numbers are drawn from."""
    buffers = [(array, copy(array)) for module in modules for array in module._buffers.values()]
    try:
        with random.undrawn(generators_of(modules)):
            yield
    finally:
        for array, before in buffers:
            array[...] = before
