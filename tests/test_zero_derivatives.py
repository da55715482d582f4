"""Ops whose derivative is 0: every way to ask for a gradient says so, as PyTorch does, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, nn, ops, optim

STEPS: dict[str, Callable[[Any], Any]] = {
    "sign": ops.sign,
    "floor": ops.floor,
    "ceil": ops.ceil,
    "trunc": ops.trunc,
    "round": ops.round,
    "floordiv": lambda x: x // 0.7,
    "floordiv by it": lambda x: 7 // x,
    "floordiv of it": lambda x: x // (x * x),
    "through others": lambda x: (x.exp() * 3).floor().sqrt(),
    "at a pole": lambda x: (x - 1.4).log().floor(),
}
AT = np.array([1.4, 2.0])


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_all_ways_agree(name: str, create_graph: bool) -> None:
    step = STEPS[name]
    with np.errstate(divide="ignore"):
        x = Tensor(AT, True)
        step(x).sum().backward(create_graph=create_graph)
        found = [x.grad]
        for unused in (False, True):
            x = Tensor(AT, True)
            found += tensorgrad.grad(step(x).sum(), x, create_graph=create_graph, allow_unused=unused)
        w = Tensor(AT, True)
        (step(w).sum() + (w * 3).sum()).backward()
        found.append(w.grad - 3)

        @tensorgrad.compile
        def compiled() -> Any:
            return tensorgrad.grad(step(x).sum(), x)[0]

        found += [compiled(), compiled()]
    for g in found:
        np.testing.assert_array_equal(g.detach(), [0, 0])


def test_what_is_in_between_has_a_gradient_too() -> None:
    x = Tensor(AT, True)
    y = x * 2
    y.retain_grad()
    seen: list[Tensor] = []
    z = y + 1
    z.register_hook(seen.append)
    z.floor().sum().backward()
    np.testing.assert_array_equal(y.grad, [0, 0])
    np.testing.assert_array_equal(seen[0], [0, 0])
    np.testing.assert_array_equal(x.grad, [0, 0])


def test_a_hook_may_give_another() -> None:
    """What is often wanted in place of 0: the straight-through estimator."""
    x = Tensor(AT, True)
    y = x * 1
    y.register_hook(lambda g: g + 5)
    y.round().sum().backward()
    np.testing.assert_array_equal(x.grad, [5, 5])


def test_an_optimiser_gets_its_gradients() -> None:
    layer = nn.Linear(2, 2)
    before = layer.weight.numpy().copy()
    layer(np.ones((1, 2), np.float32)).sign().sum().backward()
    optim.SGD(layer.parameters(), lr=0.1).step()  # which warns where there is none
    np.testing.assert_array_equal(layer.weight.numpy(), before)


def test_gradients_of_compiled_steps_are_their_own() -> None:
    """What is left in `.grad` may be added to; the next replay leaves zeros again."""
    x = Tensor(AT, True)

    @tensorgrad.compile
    def step() -> Tensor:
        loss = x.floor().sum()
        loss.backward()
        return loss.detach()

    for _ in range(3):
        x.grad = None
        step()
        np.testing.assert_array_equal(x.grad, [0, 0])
        x.grad += 1.0


def test_mod_has_the_derivative_that_it_has_between_its_jumps() -> None:
    """PyTorch's: 1 for a, -(a // b) for b."""
    a, b = Tensor(np.array([5.5, -5.5]), True), Tensor(np.array([2.0, 2.0]), True)
    (a % b).sum().backward()
    np.testing.assert_array_equal(a.grad, [1, 1])
    np.testing.assert_array_equal(b.grad, [-2, 3])


@pytest.mark.parametrize("power", ["**", "//", "%", "@"])
def test_in_place_operators_write_in_place(power: str) -> None:
    """Views and other names of the Tensor see it, and the gradient is that of the new value."""
    start = np.array([[4.0, 9.0], [2.0, 5.0]])
    other = np.array([[2.0, 3.0], [1.0, 2.0]])
    x, w = Tensor(start, True), Tensor(other, True)
    y = x * 1
    name, row = y, y[0]
    if power == "**":
        y **= w
        right = start**other
    elif power == "//":
        y //= w
        right = start // other
    elif power == "%":
        y %= w
        right = start % other
    else:
        y @= w
        right = start @ other
    assert y is name
    np.testing.assert_array_equal(name.detach(), right)
    np.testing.assert_array_equal(row.detach(), right[0])
    expected = {
        "**": (other * start ** (other - 1), start**other * np.log(start)),
        "//": (0 * start, 0 * start),
        "%": (0 * start + 1, -(start // other)),
        "@": (np.ones((2, 2)) @ other.T, start.T @ np.ones((2, 2))),
    }[power]
    for found, g in zip(tensorgrad.grad(y.sum(), [x, w]), expected, strict=True):
        np.testing.assert_allclose(found, g, rtol=1e-12)
