"""In-place changes: recorded where they can be, refused where a gradient would be wrong, free on leaves under no_grad."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, optim
from tensorgrad.errors import DTypeError, GraphError, OutOfRangeError, ShapeError
from tests.strategies import generators


def leaf(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(7).uniform(0.5, 2, shape), True)


def test_value_needed_by_backward() -> None:
    x = leaf(3)
    y = x.exp()
    loss = (y * y).sum()
    y += 1
    with pytest.raises(
        GraphError, match=r"backward: (exp|mul) \(3,\), recorded at test_inplace\.py:\d+, needs a value that has"
    ):
        loss.backward()
    assert x.grad is None


def test_written_through_a_view() -> None:
    x = leaf(3)
    y = x.exp()
    flat = y.reshape(3, 1)
    loss = (y * 2).sum()
    flat[0] = 5.0
    with pytest.raises(GraphError, match="changed in place since"):
        loss.backward()


def test_a_view_of_what_was_changed_is_stale() -> None:
    x = leaf(3)
    y = x * 2
    view = y.reshape(3, 1)
    y += leaf(3)
    with pytest.raises(GraphError, match=r"sum: argument 0 \(3, 1\), made by reshape at .*, shares memory with a Tensor"):
        view.sum()


def test_change_that_nobody_needs_is_recorded() -> None:
    x, v = leaf(3), leaf(3)
    y = x + 1
    y *= v
    y += x
    y -= 3
    y /= 2
    y.sum().backward()
    np.testing.assert_allclose(y.data, ((x.data + 1) * v.data + x.data - 3) / 2)
    np.testing.assert_allclose(x.grad.data, (v.data + 1) / 2)
    np.testing.assert_allclose(v.grad.data, (x.data + 1) / 2)


def test_assignment_is_recorded() -> None:
    x, v = leaf(4), leaf(2)
    y = x * 3
    y[1:3] = v * v
    y[3] = 7.0
    (y * np.array([1.0, 2, 3, 4])).sum().backward()
    np.testing.assert_allclose(y.data, [3 * x.data[0], *(v.data**2), 7])
    np.testing.assert_allclose(x.grad.data, [3, 0, 0, 0])
    np.testing.assert_allclose(v.grad.data, [2 * 2 * v.data[0], 3 * 2 * v.data[1]])


def test_assignment_into_a_plain_tensor_starts_a_history() -> None:
    buffer, v = Tensor(np.zeros(3)), leaf(1)
    buffer[1:2] = v
    (buffer * 5).sum().backward()
    np.testing.assert_allclose(v.grad.data, [5])


def test_leaf_only_under_no_grad() -> None:
    x = leaf(3)
    with pytest.raises(GraphError, match="in-place change: this is a leaf that requires a gradient; change it inside"):
        x += 1
    with pytest.raises(GraphError, match="in-place change: this is a leaf"):
        x[0] = 1.0
    before, memory = x.data.copy(), x.data
    with tensorgrad.no_grad():
        x -= 0.5
        x[0] = 9.0
    np.testing.assert_allclose(x.data, [9, *(before[1:] - 0.5)])
    assert x.data is memory
    assert x.is_leaf
    assert x.requires_grad


def test_optimiser_between_forward_and_backward() -> None:
    w = leaf(3)
    optimiser = optim.SGD([w], lr=0.1)
    first, second = (w * w).sum(), (w * 2).sum()
    second.backward()
    optimiser.step()
    with pytest.raises(GraphError, match=r"mul \(3,\), recorded at test_inplace\.py:\d+, needs a value that has been changed"):
        first.backward()


def test_steps_after_backward_are_free() -> None:
    w = leaf(3)
    optimiser = optim.SGD([w], lr=0.1)
    for _ in range(3):
        loss = (w * w).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def test_what_does_not_fit() -> None:
    x = leaf(3) * 1
    with pytest.raises(ShapeError, match=r"in-place change: the result has shape \(2, 3\), the Tensor \(3,\)"):
        x += np.ones((2, 3))
    n = Tensor([1, 2], dtype=int)
    with pytest.raises(DTypeError, match="in-place change: a result of float64 does not fit into a Tensor of int64"):
        n += 0.5
    with pytest.raises(OutOfRangeError, match=r"setitem: index 5 is out of bounds .*; the Tensor has shape \(2,\)"):
        n[5] = 1
    with pytest.raises(ShapeError, match=r"setitem: .*; the Tensor has shape \(2,\)"):
        n[:] = np.ones(3)
    f = Tensor([1.0, 2.0])
    f += np.ones(2)
    assert f.dtype == np.float32


@given(rng=generators(), steps=st.lists(st.sampled_from(["iadd", "imul", "set", "view", "exp", "sum"]), min_size=1, max_size=8))
def test_never_a_wrong_gradient(rng: np.random.Generator, steps: list[str]) -> None:
    """Whatever is done in place: backward raises, or its gradient is the numerical one."""
    start = rng.uniform(0.5, 1.5, 3)

    def run(values: np.ndarray) -> tuple[Tensor, Tensor]:
        x = Tensor(values, True)
        y, total = x * 1.5, x.sum() * 0
        for i, step in enumerate(steps):
            if step == "iadd":
                y += x
            elif step == "imul":
                y *= 0.5 + 0.1 * i
            elif step == "set":
                y[i % 3] = x[0] * 2
            elif step == "view":
                y = y.reshape(3, 1).reshape(3)
            elif step == "exp":
                total = total + (y * 0.1).exp().sum()
            else:
                total = total + (y * y).sum()
        return x, total + y.sum()

    try:
        x, loss = run(start)
        loss.backward()
    except GraphError as error:
        assert "changed in place" in str(error)  # noqa: PT017  (whether it raises depends on the steps drawn)
        return
    for i in range(3):
        up, down = start.copy(), start.copy()
        up[i] += 1e-6
        down[i] -= 1e-6
        slope = (run(up)[1].item() - run(down)[1].item()) / 2e-6
        # central differences at 1e-6: about 1e-9 of rounding on sums of order 100
        assert x.grad.data[i] == pytest.approx(slope, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("value", [None, "a", {1}, [None, 1.0]])
def test_what_is_no_number_is_not_written(value: object) -> None:
    """NumPy writes NaN for None."""
    t = Tensor(np.ones(2))
    with pytest.raises(DTypeError, match="setitem: expected numbers or booleans, got dtype "):
        t[...] = value  # type: ignore[call-overload]
    np.testing.assert_array_equal(t.numpy(), [1, 1])
