"""Runs of a model that leave its state unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from tensorgrad.core.backend import copy
from tensorgrad.nn.module import Module
from tensorgrad.ops import random


def generators_of(modules: Iterable[Module]) -> list[np.random.Generator]:
    """The random generators in use: dropout's default, and those that modules hold as attributes."""
    return [random.default(), *(v for module in modules for v in vars(module).values() if isinstance(v, np.random.Generator))]


@contextmanager
def preserve_state(modules: list[Module]) -> Iterator[None]:
    """Restore the side effects of running modules: buffers, and the states of random generators."""
    buffers = [(array, copy(array)) for module in modules for array in module._buffers.values()]
    try:
        with random.preserve_generators(generators_of(modules)):
            yield
    finally:
        for array, before in buffers:
            array[...] = before
