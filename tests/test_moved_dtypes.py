"""What only moves or selects keeps every dtype, in either byte order, as NumPy does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor
from tensorgrad.nn import functional as F

DTYPES = [
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
    ">i2", ">i4", ">i8", ">u4", ">f2", ">f4", ">f8",
]  # fmt: skip
MASK = np.array([True, False, True])

MOVES: dict[str, Callable[[Any, Any], Any]] = {
    "reshape": lambda m, x: m.reshape(x, (3, 2)),
    "transpose": lambda m, x: m.transpose(x),
    "broadcast_to": lambda m, x: m.broadcast_to(x, (2, 2, 3)),
    "swapaxes": lambda m, x: m.swapaxes(x, 0, 1),
    "concatenate": lambda m, x: m.concatenate([x, x], 1),
    "stack": lambda m, x: m.stack([x, x]),
    "split": lambda m, x: m.split(x, 3, 1)[1],
    "flip": lambda m, x: m.flip(x, 1),
    "roll": lambda m, x: m.roll(x, 1, 1),
    "repeat": lambda m, x: m.repeat(x, (2, 0, 1), 1),
    "tile": lambda m, x: m.tile(x, (2, 2)),
    "pad": lambda m, x: m.pad(x, 1),
    "pad with 3": lambda m, x: m.pad(x, ((1, 0), (0, 2)), **{"constant_values" if m is np else "value": 3}),
    "take": lambda m, x: m.take(x, [0, 0, 1], 1),
    "take_along_axis": lambda m, x: m.take_along_axis(x, np.array([[0], [2]]), 1),
    "take_along_axis, rows broadcast": lambda m, x: m.take_along_axis(x, np.array([[0, 2]]), 1),
    "diagonal": lambda m, x: m.diagonal(x),
    "tril": lambda m, x: m.tril(x),
    "triu": lambda m, x: m.triu(x, 1),
    "where": lambda m, x: m.where(MASK, x, x[::-1]),
    "squeeze": lambda m, x: m.squeeze(x[:1]),
    "expand_dims": lambda m, x: m.expand_dims(x, 1),
    "moveaxis": lambda m, x: m.moveaxis(x, 0, 1),
    "flatten": lambda m, x: x.flatten(),
    "a row": lambda m, x: x[1],
    "rows": lambda m, x: x[np.array([0, 0], ">i8")],
    "a mask": lambda m, x: x[:, MASK],
    "max": lambda m, x: m.max(x, 1),
    "min": lambda m, x: m.min(x, 0),
    "maximum": lambda m, x: m.maximum(x, x[::-1]),
    "minimum": lambda m, x: m.minimum(x, x[::-1]),
    "clip": lambda m, x: m.clip(x, 0, 1),
}


def data(dtype: str) -> np.ndarray:
    return (np.random.default_rng(0).normal(size=(2, 3)) * 3).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MOVES)
def test_moves_keep_the_dtype(name: str, dtype: str) -> None:
    function, x = MOVES[name], data(dtype)
    expected = function(np, x)
    found = function(tensorgrad, Tensor(x))
    assert found.dtype == expected.dtype.newbyteorder("=")  # a Tensor has this machine's byte order
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", MOVES)
def test_moves_of_steps_that_are_compiled_keep_the_dtype(name: str) -> None:
    for dtype in ("bool", "int16", "float16", "float32"):
        step = tensorgrad.compile(lambda t: MOVES[name](tensorgrad, t))
        for _ in range(2):
            found = step(Tensor(data(dtype)))
        expected = MOVES[name](np, data(dtype))
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (1,), (2, 3)])
@pytest.mark.parametrize("how", ["byte order", "columns", "backwards", "read-only", "broadcast"])
def test_results_do_not_depend_on_how_an_array_lies_in_memory(how: str, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    same = {
        "byte order": lambda: x.astype(">f8"),
        "columns": lambda: np.asfortranarray(x).reshape(shape),
        "backwards": lambda: x[::-1].copy()[::-1] if shape else x,
        "read-only": lambda: np.broadcast_to(x, shape),
        "broadcast": lambda: np.broadcast_to(x, (1, *shape))[0],
    }[how]()
    for function in (
        lambda t: (t * 2).exp().sum(),
        lambda t: t.reshape(-1).cumsum().sum(),
        lambda t: t.prod(),
        lambda t: t.norm(),
    ):
        results = []
        for values in (x, same):
            t = Tensor(values, True)
            y = function(t)
            y.backward()
            results.append((y.item(), t.grad.numpy().tolist(), float(function(Tensor(x) * values / x).item())))
        assert results[0] == results[1]


@pytest.mark.parametrize("dtype", [">i2", ">i4", ">i8", ">u2", ">u8"])
def test_labels_in_another_byte_order(dtype: str) -> None:
    labels = np.array([0, 2, 1])
    z, table = np.random.default_rng(0).normal(size=(3, 3)), np.arange(9.0).reshape(3, 3)
    for given in (labels.astype(dtype), Tensor(labels.astype(dtype))):
        assert F.cross_entropy(Tensor(z), given).item() == F.cross_entropy(Tensor(z), labels).item()
        np.testing.assert_array_equal(tensorgrad.one_hot(given, 3), np.eye(3)[labels])
        np.testing.assert_array_equal(F.embedding(given, Tensor(table)), table[labels])
        np.testing.assert_array_equal(tensorgrad.take(Tensor(table), given, 1), table[:, labels])


def test_bitwise_not_of_integers() -> None:
    for dtype in ("int8", "uint8", "int64", "uint64", ">i4", "bool"):
        x = np.array([1, 0, 2]).astype(dtype)
        found = ~Tensor(x)
        np.testing.assert_array_equal(found, ~x)
        assert found.dtype == (~x).dtype
