"""The flat array in which gradients become those of the whole batch: its memory, over steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tensorgrad import Tensor, nn, optim
from tensorgrad.core.ranks import ranks


class Twins:
    """Two ranks that have the same."""

    rank, size, fault_tolerant = 0, 2, False

    def all_reduce(self, array: Any) -> None:
        array *= 2

    def broadcast(self, value: Any) -> Any:
        return value

    def all_gather(self, value: Any) -> list[Any]:
        return [value, value]


@pytest.fixture(autouse=True)
def twins() -> Iterator[None]:
    ranks.group = Twins()
    try:
        yield
    finally:
        ranks.group = None


def stepped(model: nn.Module, optimiser: optim.Optimiser, x: np.ndarray, clear: bool = True) -> None:
    if clear:
        optimiser.zero_grad()
    (model(Tensor(x)) ** 2).sum().backward()
    optimiser.step()


def owner(tensor: Any) -> int:
    """Where the memory of a gradient begins."""
    found: int = tensor._data.ctypes.data
    return found


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_memory_is_taken_again_unless_somebody_has_it(dtype: str) -> None:
    rng = np.random.default_rng(0)
    model = nn.Linear(400, 500, dtype=dtype)  # from some size on memory is taken again
    optimiser = optim.SGD(model, lr=1e-4)
    x = rng.normal(size=(4, 400)).astype(dtype) / 400
    stepped(model, optimiser, x)
    first = owner(model.weight.grad)
    stepped(model, optimiser, x)
    assert owner(model.weight.grad) == first
    held = model.weight.grad
    assert held is not None
    values = held.numpy().copy()
    stepped(model, optimiser, 3 * x)
    assert owner(model.weight.grad) != first
    np.testing.assert_array_equal(held.numpy(), values)
    part = model.bias.grad.numpy()[:1]  # a view, though the Tensor is gone
    values = part.copy()
    stepped(model, optimiser, x)
    np.testing.assert_array_equal(part, values)


def test_gradients_that_are_added_up_over_steps() -> None:
    """They lie in that memory themselves when they are read from."""
    model = nn.Linear(3, 2, dtype="float64")
    optimiser = optim.SGD(model, lr=0.0)
    x = np.random.default_rng(0).normal(size=(4, 3))
    stepped(model, optimiser, x)
    assert model.weight.grad is not None
    once = model.weight.grad.numpy().copy()
    for n in (2, 3):
        stepped(model, optimiser, x, clear=False)
        np.testing.assert_allclose(model.weight.grad.numpy(), n * once, rtol=1e-14)
