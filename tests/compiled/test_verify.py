"""What verifies a new plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor
from tensorgrad.errors import CompileError


def test_a_number_of_which_rounding_is_all_that_is_left() -> None:
    """The same sum in two orders, one taken from the other: the plan has other orders, and is compared with what disturbing
    every number makes of it."""

    def step(x: Tensor) -> Any:
        return (x * x).sum() - (x * x).sum(0).sum()

    compiled = tensorgrad.compile(step)
    rng = np.random.default_rng(0)
    for _ in range(3):
        assert abs(compiled(Tensor(rng.normal(size=(301, 7)))).item()) < 1e-10


def test_values_that_overflow_are_not_taken_for_rounding() -> None:
    """What the plan computes overflows, but the step writes a number over it, unseen: infinity is no second opinion."""
    total = Tensor(np.ones(1, np.float16))

    def step(x: Tensor) -> None:
        nonlocal total
        total *= x.sum()
        memory.fill(1)

    memory = total.data
    compiled = tensorgrad.compile(step)
    x = Tensor(np.full(3, 3e4, np.float16))
    with np.errstate(over="ignore"):
        compiled(x)
        with pytest.raises(CompileError, match=r"is np.float16\(inf\) in the plan and np.float16\(1.0\) in the step"):
            compiled(x)


def test_infinite_parameters_excuse_nothing() -> None:
    """Rounding leaves infinity as it is: what is disturbed to tell how large it may be, too."""
    w, total = Tensor(np.full(2, np.inf)), Tensor(np.ones(2))

    def step(x: Tensor) -> Tensor:
        nonlocal total
        total *= x.sum() * (w > 0)
        memory.fill(1)
        return w * x.sum()

    memory = total.data
    compiled = tensorgrad.compile(step)
    compiled(Tensor(np.full(3, 2.0)))
    with pytest.raises(CompileError, match="written to an array from outside"):
        compiled(Tensor(np.full(3, 2.0)))
