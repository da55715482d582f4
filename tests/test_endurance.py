"""A small share of each part of tests/endurance.py."""

from __future__ import annotations

import numpy as np
import pytest

import tensorgrad
from tests import endurance


@pytest.mark.every(3)
@pytest.mark.parametrize("part", [name for name in endurance.PARTS if name != "kills"])
def test_a_small_share(part: str) -> None:
    assert endurance.PARTS[part](0.002, 0.1)


@pytest.mark.thorough
def test_a_few_kills() -> None:
    assert endurance.kills(0.003, 0.0)


def test_memory_that_grows_is_found() -> None:
    memory, kept = endurance.Memory(20), []
    for i in range(20):
        memory.look(i)
        kept.append(np.ones(2**20))
    with pytest.raises(AssertionError, match="MiB more than after the first tenth"):
        memory.checked()


def test_steps_that_differ_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = tensorgrad.compile
    monkeypatch.setattr(tensorgrad, "compile", lambda step: compiled(lambda x, y: step(x * 1.001, y)))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        endurance.steps(0.002, 0.1)
