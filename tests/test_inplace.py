"""In-place changes: recorded where they can be, refused where a gradient would be wrong, free on leaves under no_grad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
        GraphError, match=r"backward: (exp|mul) \(3,\), recorded at test_inplace\.py:\d+, needs a value that was"
    ):
        loss.backward()
    assert x.grad is None


def test_written_through_a_view() -> None:
    x = leaf(3)
    y = x.exp()
    flat = y.reshape(3, 1)
    loss = (y * 2).sum()
    flat[0] = 5.0
    with pytest.raises(GraphError, match="changed in place later"):
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
    with pytest.raises(GraphError, match=r"mul \(3,\), recorded at test_inplace\.py:\d+, needs a value that was changed"):
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
    with pytest.raises(DTypeError, match="in-place change: a float64 result cannot be stored in a int64 Tensor"):
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


# Views: each operation that can return one, of a leaf and of what was computed

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "t[...]": lambda t: t[...],
    "t[0]": lambda t: t[0],
    "t[:, 1:]": lambda t: t[:, 1:],
    "t[None]": lambda t: t[None],
    "t[::-1]": lambda t: t[::-1],
    "reshape": lambda t: t.reshape(-1),
    "flatten": lambda t: t.flatten(),
    "T": lambda t: t.T,
    "transpose": lambda t: t.transpose(1, 0),
    "permute": lambda t: t.permute(1, 0),
    "swapaxes": lambda t: t.swapaxes(0, 1),
    "moveaxis": lambda t: t.moveaxis(0, 1),
    "expand_dims": lambda t: t.expand_dims(0),
    "squeeze": lambda t: t.expand_dims(0).squeeze(0),
    "broadcast_to": lambda t: t.broadcast_to((2, 3)),
    "split": lambda t: t.split(2)[0],
    "flip": lambda t: t.flip(0),
    "diagonal": lambda t: t.diagonal(),
    "take": lambda t: t.take([0], 0),
    "tril": lambda t: t.tril(),
    "astype": lambda t: t.astype("float64"),
    "to": lambda t: t.to("cpu", "float64"),
    "einsum": lambda t: tensorgrad.einsum("ij->ji", t),
    "iter": lambda t: next(iter(t)),
    "+": lambda t: +t,
    "a view of a view": lambda t: t.T[1:].T,
    "np.reshape": lambda t: np.reshape(t, (-1,)),
    "checkpoint": lambda t: tensorgrad.checkpoint(lambda a: a[0], t),
}

WRITES: dict[str, Callable[[Tensor], Any]] = {
    "+=": lambda v: v.__iadd__(1.0),
    "-=": lambda v: v.__isub__(1.0),
    "*=": lambda v: v.__imul__(2.0),
    "/=": lambda v: v.__itruediv__(2.0),
    "[...] =": lambda v: v.__setitem__(..., 7.0),
    "[0] =": lambda v: v.__setitem__(0, 7.0),
    "[...] = Tensor": lambda v: v.__setitem__(..., leaf(1)),
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_leaf_is_not_changed_through_a_view(view: str) -> None:
    for write in WRITES.values():
        w = leaf(2, 3)
        before = w.data.copy()
        v = VIEWS[view](w)
        try:
            write(v)
        except GraphError as error:
            assert "in-place change: this " in str(error)  # noqa: PT017  (some return a copy, which may be changed)
        np.testing.assert_array_equal(w.data, before)


@pytest.mark.parametrize("view", ["t[0]", "reshape", "T", "a view of a view", "t[None]", "split"])
def test_the_error_names_the_view_and_the_leaf(view: str) -> None:
    w = Tensor(np.ones((2, 3)), True, name="weight")
    v = VIEWS[view](w)
    message = (
        r"in-place change: this is a view, created by [a-z]+ at test_inplace\.py:\d+, of a leaf 'weight' \(2, 3\) that req"
    )
    with pytest.raises(GraphError, match=message):
        v *= 0.0
    with pytest.raises(GraphError, match=message):
        v[0] = 0.0


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_of_a_leaf_changed_under_no_grad_is_a_write_to_it(view: str) -> None:
    for made_inside in (False, True):
        for write in WRITES.values():
            w = leaf(2, 3)
            loss = (w * w).sum()
            before = w.data.copy()
            v = None if made_inside else VIEWS[view](w)
            with tensorgrad.no_grad():
                v = VIEWS[view](w) if v is None else v
                try:
                    write(v)
                except GraphError as error:
                    assert "is read-only" in str(error)  # noqa: PT017  (what is broadcast)
            if np.array_equal(before, w.data):
                loss.backward()
                np.testing.assert_array_equal(w.grad.data, 2 * before)
            else:
                with pytest.raises(GraphError, match="changed in place later"):
                    loss.backward()


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_of_what_was_computed(view: str) -> None:
    """Written to, both have the new values, and the other one is stale, by whatever way its gradient is asked for."""
    for write in WRITES.values():
        x = leaf(2, 3)
        h = x * 2
        before = h.data.copy()
        v = VIEWS[view](h)
        try:
            write(v)
        except GraphError as error:
            assert "is read-only" in str(error)  # noqa: PT017
        if v is h:  # .to() what it is already: no view, and its history is that of the change
            continue
        changed = not np.array_equal(h.data, before)
        for ask in (lambda t: t.sum().backward(retain_graph=True), lambda t: t.backward(np.ones((2, 3)), retain_graph=True)):
            if changed:
                with pytest.raises(GraphError, match="changed in place later"):
                    ask(h)
            else:
                x.grad = None
                ask(h)
                np.testing.assert_array_equal(x.grad.data, np.full((2, 3), 2.0))


@pytest.mark.parametrize("write", WRITES)
def test_what_is_broadcast_is_read_only(write: str) -> None:
    for t in (Tensor(np.ones(3)), leaf(3) * 1):
        with pytest.raises(GraphError, match=r"in-place change: this Tensor \(2, 3\).* is read-only, because it is broadcast"):
            WRITES[write](t.broadcast_to((2, 3)))
