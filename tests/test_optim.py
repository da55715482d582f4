"""SGD against its formulas written out."""

from __future__ import annotations

import numpy as np
import pytest

from tensorgrad import Tensor, optim
from tensorgrad.errors import GraphError


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_sgd(momentum: float, weight_decay: float) -> None:
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=4), rng.normal(size=(70, 4))
    p = Tensor(start, True)
    buffer = p.data
    optimiser = optim.SGD([p], lr=0.05, momentum=momentum, weight_decay=weight_decay)
    expected, v = start.copy(), np.zeros(4)
    for g in gradients:
        p.grad = Tensor(g)
        optimiser.step()
        v = momentum * v + g + weight_decay * expected
        expected = expected - 0.05 * v
        np.testing.assert_array_equal(p.grad.data, g)
    np.testing.assert_allclose(p.data, expected, rtol=1e-12)
    assert p.data is buffer


def test_no_gradient_no_step() -> None:
    p, q = Tensor([1.0], True), Tensor([1.0], True)
    optimiser = optim.SGD([p, q], lr=1, weight_decay=0.5)
    q.grad = Tensor([1.0])
    optimiser.step()
    assert (p.item(), q.item()) == (1.0, -0.5)
    optimiser.zero_grad()
    assert q.grad is None


def test_a_dying_velocity_does_not_become_subnormal() -> None:
    p = Tensor(np.zeros(3, np.float32), True)
    optimiser = optim.SGD([p], lr=1e-3, momentum=0.9)
    p.grad = Tensor(np.ones(3, np.float32))
    optimiser.step()
    p.grad = Tensor(np.zeros(3, np.float32))
    tiny = np.finfo(np.float32).tiny
    for _ in range(2000):
        optimiser.step()
        v = optimiser._velocity[0]
        assert ((v == 0) | (v > tiny)).all()
    np.testing.assert_allclose(p.data, -1e-3 / (1 - 0.9), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: optim.SGD([], lr=0.1), ValueError, "SGD: params is empty"),
        (lambda: optim.SGD([Tensor([1.0], True)], lr=-1), ValueError, "SGD: lr must be at least 0, got -1"),
        (lambda: optim.SGD([Tensor([1.0], True)], lr=1, momentum=float("nan")), ValueError, "SGD: momentum must be"),
        (lambda: optim.SGD([Tensor([1.0])], lr=1), GraphError, "SGD: parameter 0 must be a leaf Tensor that requires"),
        (lambda: optim.SGD([Tensor([1.0], True) * 2], lr=1), GraphError, "SGD: parameter 0 must be a leaf Tensor"),
    ],
)
def test_mistakes(make, kind, message) -> None:
    with pytest.raises(kind, match=message):
        make()
