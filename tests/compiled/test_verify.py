"""What verifies a new plan."""

from __future__ import annotations

from typing import Any

import numpy as np

import tensorgrad
from tensorgrad import Tensor


def test_a_number_of_which_rounding_is_all_that_is_left() -> None:
    """The same sum in two orders, one taken from the other: the plan has other orders, and is compared with what disturbing
    every number makes of it."""

    def step(x: Tensor) -> Any:
        return (x * x).sum() - (x * x).sum(0).sum()

    compiled = tensorgrad.compile(step)
    rng = np.random.default_rng(0)
    for _ in range(3):
        assert abs(compiled(Tensor(rng.normal(size=(301, 7)))).item()) < 1e-10
