"""A loss of classes that is scaled is one kernel, forward and backward: whatever scales it, and whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, nn, optim
from tensorgrad.nn import functional as F
from tests.compiled import KERNELS, World, agree, kernels, training

X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
Y = np.array([0, 1, 2, 0, 1, 2])


class Scaled(nn.Module):
    """Something that scales a loss, and a count of how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.temperature = nn.Parameter(np.float32(1.5))
        self.share = np.float32(0.25)


SCALES: dict[str, Callable[[Scaled, Tensor], Tensor]] = {
    "a number": lambda m, loss: loss * 50.0,
    "NumPy's number": lambda m, loss: loss * m.share,
    "divided": lambda m, loss: loss / 3 - 1.0,
    "negative": lambda m, loss: 2.0 - loss,
    "learned": lambda m, loss: loss * m.temperature,
    "learned twice": lambda m, loss: loss * m.temperature / (m.temperature + 2),
    "of itself": lambda m, loss: loss * loss,
    "of itself, detached": lambda m, loss: loss * loss.detach(),
    "of the scores": lambda m, loss: loss * (m.fc.weight**2).sum(),
    "exponential": lambda m, loss: (loss * 0.1).exp(),
    "with another": lambda m, loss: 0.3 * loss + 0.7 * (m.fc.weight**2).sum(),
}
ONE = {"a number", "NumPy's number", "divided", "negative", "learned", "learned twice", "with another"}  # one kernel


def descent(name: str, model: Scaled) -> Callable[..., Any]:
    """A step of gradient descent."""
    parameters = [*model.fc.parameters(), *[model.temperature] * ("learned" in name)]
    return training(lambda x, y: SCALES[name](model, F.cross_entropy(model.fc(x), y)), optim.SGD(parameters, lr=0.1))


@KERNELS
@pytest.mark.parametrize("name", SCALES)
def test_whatever_scales_it(name: str, numba: bool) -> None:
    def make() -> World:
        tg.manual_seed(0)
        model = Scaled()
        return World(descent(name, model), model.state_dict)

    rng = np.random.default_rng(1)
    with kernels(numba):
        agree(
            make,
            [(rng.normal(size=(6, 4)).astype("float32"), rng.integers(0, 3, 6)) for _ in range(5)],
            rtol=1e-5,
            may_refuse=False,
        )


@pytest.mark.parametrize("name", SCALES)
def test_which_are_one_kernel(name: str) -> None:
    step = tg.compile(descent(name, Scaled()))
    for _ in range(4):
        step(X, Y)
    names = [call.name for call in step.plan.calls]
    assert ("softmax_cross_entropy" in names) == (name in ONE)
    assert ("softmax_cross_entropy_grad" in names) == (name not in ONE)


def test_what_scales_it_is_updated_meanwhile() -> None:
    """Between the loss and its gradient an optimiser moves what then scales it, which is not to be read before."""

    def make() -> World:
        tg.manual_seed(0)
        model = Scaled()
        one, other = optim.SGD(model.fc.parameters(), lr=0.1), optim.SGD([model.temperature], lr=0.3)

        def step(x: Any, y: Any) -> Any:
            loss = F.cross_entropy(model.fc(x), y)
            other.zero_grad()
            (model.temperature**2).backward()
            other.step()
            total = loss * model.temperature.detach()
            one.zero_grad()
            total.backward()
            one.step()
            return total

        return World(step, model.state_dict)

    agree(make, [(X + k, Y) for k in range(5)], rtol=1e-5, may_refuse=False, replays=True)


@KERNELS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_scales_it_is_of_another_dtype(dtype: str, numba: bool) -> None:
    """The gradient that comes in is then computed in the wider dtype, and rounded to that of the scores."""

    def make() -> World:
        tg.manual_seed(0)
        model, factor = Scaled(), Tensor(np.array(1.7, dtype), requires_grad=True)
        optimiser = optim.SGD(model.fc.parameters(), lr=0.1)

        def step(x: Any, y: Any) -> Any:
            loss = F.cross_entropy(model.fc(x), y) * factor * 3.0
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return loss

        return World(step, lambda: (model.state_dict(), factor.grad))

    with kernels(numba):
        agree(make, [(X + k, Y) for k in range(5)], rtol=1e-5)
