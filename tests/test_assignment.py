"""y[index] = v: every kind of index, with what is constant and what is recorded, eager and compiled, against one element after
the other; of an element that is named twice the last v stays, and it alone has a gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor
from tensorgrad.errors import CompileError
from tensorgrad.testing import gradcheck
from tests.oracles.assign import setitem

X = np.random.default_rng(0).normal(size=(3, 4))
G = np.random.default_rng(1).normal(size=(3, 4))
MASK = np.array([True, False, True])


def index(*at: Any) -> Tensor:
    return Tensor(np.array(at))


INDICES: dict[str, Any] = {
    "a number": 1,
    "from the end": -1,
    "NumPy's number": np.int64(2),
    "a slice": slice(0, 2),
    "backwards": slice(None, None, -2),
    "everything": ...,
    "a new axis": (None, 0),
    "a list": [0, 2],
    "a list, one twice": [0, 0, 2],
    "from both ends": [0, -3, 1],
    "an array": np.array([2, 2]),
    "a matrix of indices": np.array([[0, 1], [0, 0]]),
    "no axes": np.array(1),
    "a mask": MASK,
    "a list of booleans": [True, False, True],
    "a mask of elements": X > 0,
    "rows and columns": ([0, 0], [1, 1]),
    "a slice and an array": (slice(0, 2), np.array([1, 1])),
    "a number and a list": (1, [0, 0]),
    "a mask and a list": (MASK, [0, 0]),
    "a Tensor": index(0, 2),
    "a Tensor, one twice": index(1, 1, -2),
    "a Tensor without axes": Tensor(np.array(1)),
    "Tensors": (index(0, 0), index(1, 1)),
    "a Tensor and a list": (index(0, 0), [1, 1]),
    "a slice and a Tensor": (slice(0, 2), index(1, 1)),
    "all rows, a Tensor": (slice(None), index(3, 3, 3)),
    "a mask that is a Tensor": Tensor(MASK),
    "a mask of elements that is a Tensor": Tensor(X > 0),
    "a mask that is a Tensor, and a number": (Tensor(MASK), 0),
}
BIG_ENDIAN = {"an array": np.array([2, 2], ">i4"), "a Tensor": Tensor(np.array([0, 2], ">i8"))}


def plain(at: Any) -> Any:
    return tuple(map(plain, at)) if isinstance(at, tuple) else at.numpy() if isinstance(at, Tensor) else at


def expected(at: Any, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The value, and for the cotangent G the gradients of x and of v: v is followed by the number of each element."""
    number = np.arange(1.0, v.size + 1).reshape(v.shape)
    owner = setitem(np.zeros(X.shape), number, plain(at))
    gv = np.array([G[owner == n].sum() for n in number.ravel()]).reshape(v.shape)
    return setitem(X, v, plain(at)), np.where(owner == 0, G, 0), gv


def values(at: Any) -> list[np.ndarray]:
    """Of the shape of the part, of one that broadcasts to it, of a number."""
    part = X[plain(at)].shape
    rng = np.random.default_rng(2)
    return [rng.normal(size=shape) for shape in dict.fromkeys((part, part[-1:], (1,) * len(part), ()))]


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("kind", INDICES)
def test_recorded(kind: str, create_graph: bool) -> None:
    at = INDICES[kind]
    for v in values(at):
        value, gx, gv = expected(at, v)
        x, w = Tensor(X, True), Tensor(v, True)
        y = x * 1
        y[at] = w
        np.testing.assert_array_equal(y.detach(), value)
        found = tensorgrad.grad((y * G).sum(), [x, w], create_graph=create_graph)
        np.testing.assert_allclose(found[0].detach(), gx, rtol=1e-14)
        np.testing.assert_allclose(found[1].detach(), gv, rtol=1e-14, atol=1e-16)
        y = Tensor(X)
        y[at] = v  # nothing of it recorded
        np.testing.assert_array_equal(y, value)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("kind", INDICES)
def test_compiled(kind: str, recorded: bool) -> None:
    at = INDICES[kind]
    v = values(at)[0]
    value, gx, gv = expected(at, v)

    @tensorgrad.compile
    def step(x: Tensor, v: Any) -> Any:
        x = x.detach().requires_grad_()
        w = v.detach().requires_grad_() if recorded else v
        y = x * 1
        y[at] = w
        return y, tensorgrad.grad((y * G).sum(), [x, w] if recorded else [x])

    for _ in range(2):
        y, gradients = step(Tensor(X), Tensor(v) if recorded else v)
        np.testing.assert_array_equal(y.detach(), value)
        for found, right in zip(gradients, (gx, gv), strict=False):
            np.testing.assert_allclose(found.detach(), right, rtol=1e-14, atol=1e-16)


def test_indices_that_a_compiled_step_is_given_are_read_anew() -> None:
    @tensorgrad.compile
    def step(x: Tensor, at: Tensor, v: Tensor) -> Tensor:
        y = x * 1
        y[at] = v
        y[y > 10] = 0.0
        return y

    for at in ([0, 0], [2, 1], [1, 1]):
        v = np.array([[1.0, 2, 3, 4], [5, 6, 7, 20]])
        right = setitem(X, v, at)
        np.testing.assert_array_equal(step(Tensor(X), index(*at), Tensor(v)), np.where(right > 10, 0, right))


def test_a_number_of_elements_that_depends_on_values_is_refused() -> None:
    @tensorgrad.compile
    def step(x: Tensor, v: Tensor) -> Tensor:
        y = x * 1
        y[x > 0] = v
        return y

    with pytest.raises(CompileError, match="a boolean index, whose number of True values is a shape"):
        step(Tensor(X), Tensor(np.zeros((X > 0).sum())))


@pytest.mark.parametrize("kind", BIG_ENDIAN)
def test_indices_in_another_byte_order(kind: str) -> None:
    at = BIG_ENDIAN[kind]
    v = np.arange(8.0).reshape(2, 4)
    value, gx, gv = expected(at, v)
    x, w = Tensor(X, True), Tensor(v, True)
    y = x * 1
    y[at] = w
    np.testing.assert_array_equal(y.detach(), value)
    for found, right in zip(tensorgrad.grad((y * G).sum(), [x, w]), (gx, gv), strict=True):
        np.testing.assert_allclose(found, right)
    np.testing.assert_array_equal(x[at].detach(), X[plain(at)])


@pytest.mark.parametrize("recorded", [False, True])
def test_the_last_stays_however_things_lie_in_memory(recorded: bool) -> None:
    """NumPy itself goes through an index, and what is written, in the order in which it finds them in memory."""
    rng = np.random.default_rng(5)
    for _ in range(60):
        at = tuple(rng.integers(-n, n, (3, 4)) for n in X.shape)
        v = rng.normal(size=(3, 4))
        x, w = Tensor(X, recorded), Tensor(v, recorded)
        y = x * 1
        y[tuple(Tensor(i).T for i in at)] = w.T
        rows = tuple(i.T.copy() for i in at)
        np.testing.assert_array_equal(y.detach(), setitem(X, v.T, rows))
        if recorded:
            gv = tensorgrad.grad((y * G).sum(), w)[0].numpy()
            owner = setitem(np.zeros(X.shape), np.arange(1.0, 13).reshape(3, 4).T, rows)
            np.testing.assert_allclose(gv.ravel(), [G[owner == n].sum() for n in range(1, 13)])


def test_in_place_arithmetic_at_an_index_that_is_named_twice_happens_once() -> None:
    x = Tensor(np.array([1.0, 2, 3]), True)
    y = x * 1
    y[[0, 0]] += np.ones(2)
    y.sum().backward()
    np.testing.assert_array_equal(y.detach(), [2, 2, 3])
    np.testing.assert_array_equal(x.grad, [1, 1, 1])


def test_central_differences_agree() -> None:
    gradcheck(lambda v: tensorgrad.setitem(np.zeros(3), v, [0, 0]), (np.array([1.0, 2.0]),))
    gradcheck(lambda x, v: tensorgrad.setitem(x, v, (index(0, 0, 1), slice(None))), (X, X[:, ::-1].copy()))
