"""From a Tensor to numbers and arrays: what is computed is recorded, or refused, or warned of once for each line."""

from __future__ import annotations

import array
import cmath
import copy
import decimal
import fractions
import json
import math
import operator
import pickle
import statistics
import struct
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor
from tensorgrad.errors import DTypeError, GraphError


def computed() -> tuple[Tensor, Tensor]:
    t = Tensor(np.array([3.0, 4.0]), True) * 1
    return t, t[0]


# How a Tensor t of two elements, or its first one s, becomes something else
RECORDED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "array * t": lambda t, s: np.ones(2) * t,
    "array @ t": lambda t, s: np.ones(2) @ t,
    "np.dot": lambda t, s: np.dot(np.ones(2), t),
    "np.where": lambda t, s: np.where(np.ones(2, bool), t, 0),
    "np.clip": lambda t, s: np.clip(t, 0, 9),
    "np.broadcast_to": lambda t, s: np.broadcast_to(t, (2, 2)),
    "NumPy's number * s": lambda t, s: np.float64(2) * s,
    "sum of a list": lambda t, s: sum([s, s]),
    "max of a list": lambda t, s: max([s, s]),
    "min of a list": lambda t, s: min([s, s]),
    "math.prod": lambda t, s: math.prod([s, s]),
    "pow": lambda t, s: pow(2, s),
    "abs": lambda t, s: abs(s),
    "a list times": lambda t, s: [1, 2] * s,
    "first of sorted": lambda t, s: sorted([s, s])[0],
    "last of list": lambda t, s: list(t)[-1],
    "last of tuple": lambda t, s: tuple(t)[-1],
}

WARNED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "float": lambda t, s: float(s),
    "int": lambda t, s: int(s),
    "complex": lambda t, s: complex(s),
    "math.exp": lambda t, s: math.exp(s),
    "math.floor": lambda t, s: math.floor(s),
    "math.ceil": lambda t, s: math.ceil(s),
    "math.isnan": lambda t, s: math.isnan(s),
    "math.fsum": lambda t, s: math.fsum([s]),
    "math.pow": lambda t, s: math.pow(s, 2),
    "math.hypot": lambda t, s: math.hypot(s),
    "cmath.exp": lambda t, s: cmath.exp(s),
    "a[0] = s": lambda t, s: np.zeros(2).__setitem__(0, s),
    "a.flat[0] = s": lambda t, s: np.zeros(2).flat.__setitem__(0, s),
    "a.fill(s)": lambda t, s: np.zeros(2).fill(s),
    "np.float64": lambda t, s: np.float64(s),
    "dtype.type": lambda t, s: t.dtype.type(s),
    "np.fromiter": lambda t, s: np.fromiter([s], float),
    "initial=": lambda t, s: np.ones(2).sum(initial=s),
    "struct.pack": lambda t, s: struct.pack("f", s),
    "array.array": lambda t, s: array.array("d", [s]),
    "%": lambda t, s: "%.3f" % s,  # noqa: UP031
}

REFUSED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "np.asarray": lambda t, s: np.asarray(t),
    "np.array": lambda t, s: np.array(s),
    "np.array of a list": lambda t, s: np.array([s, s]),
    "np.array of a list of lists": lambda t, s: np.array([[s], [s]]),
    "np.array of a list of arrays": lambda t, s: np.array([t, t]),
    "np.array of objects": lambda t, s: np.array([s], dtype=object),
    "np.float32": lambda t, s: np.float32(s),
    "np.int64": lambda t, s: np.int64(s),
    "np.bool": lambda t, s: np.bool_(s),
    "np.full": lambda t, s: np.full(2, s),
    "np.arange": lambda t, s: np.arange(s),
    "np.linspace": lambda t, s: np.linspace(0, s, 3),
    "np.copyto": lambda t, s: np.copyto(np.zeros(2), t),
    "np.put": lambda t, s: np.put(np.zeros(2), [0], s),
    "np.append": lambda t, s: np.append(np.ones(2), t),
    "np.dstack": lambda t, s: np.dstack([t, t]),
    "np.save": lambda t, s: np.save("", t),
    "np.vectorize": lambda t, s: np.vectorize(math.exp)(t),
    "np.frompyfunc": lambda t, s: np.frompyfunc(math.exp, 1, 1)(t),
    "np.from_dlpack": lambda t, s: np.from_dlpack(t),
    "np.testing": lambda t, s: np.testing.assert_allclose(t, t),
    "np.searchsorted": lambda t, s: np.searchsorted([1, 2], s),
    "np.ma.array": lambda t, s: np.ma.array(t),
    "np.random": lambda t, s: np.random.default_rng(0).normal(s),
    "np.random of several": lambda t, s: np.random.default_rng(0).normal(t),
    "a[:] = t": lambda t, s: np.zeros(2).__setitem__(slice(None), t),
    "a[:] = s": lambda t, s: np.zeros(2).__setitem__(slice(None), s),
    "a += t": lambda t, s: np.zeros(2).__iadd__(t),
    "a[s]": lambda t, s: np.ones(3)[s],
    "a.put": lambda t, s: np.zeros(2).put([0], s),
    "a.dot": lambda t, s: np.ones(2).dot(t),
    "out=": lambda t, s: np.sqrt(t, out=np.zeros(2)),
    "out=, positional": lambda t, s: np.sqrt(np.ones(2), t),
    "at": lambda t, s: np.add.at(t, [0], 1.0),
    "at, of an array": lambda t, s: np.add.at(np.zeros(2), [0, 1], t),
    "where=": lambda t, s: np.sqrt(np.ones(2), where=t),
    "reduce": lambda t, s: np.add.reduce(t),
    "outer": lambda t, s: np.add.outer(t, t),
    "Tensor": lambda t, s: Tensor(t),
    "Tensor that requires a gradient": lambda t, s: Tensor(t, requires_grad=True),
    "Tensor of a number": lambda t, s: Tensor(s),
    "Tensor of a list": lambda t, s: Tensor([s, s]),
    "Tensor of a list of Tensors": lambda t, s: Tensor([t, t]),
    "from_dlpack": lambda t, s: tensorgrad.from_dlpack(t),
    "copy.copy": lambda t, s: copy.copy(t),
    "copy.deepcopy": lambda t, s: copy.deepcopy(t),
    "pickle": lambda t, s: pickle.dumps(t),
    "json": lambda t, s: json.dumps(s),
    "range": lambda t, s: range(s),
    "an index of a list": lambda t, s: [1, 2, 3][s],
    "a slice of a list": lambda t, s: [1, 2, 3][:s],
    "operator.index": lambda t, s: operator.index(s),
    "round": lambda t, s: round(s),
    "divmod": lambda t, s: divmod(s, 2),
    "math.trunc": lambda t, s: math.trunc(s),
    "statistics": lambda t, s: statistics.mean([s, s]),
    "fractions": lambda t, s: fractions.Fraction(s),
    "decimal": lambda t, s: decimal.Decimal(s),
    "bytes": lambda t, s: bytes(t),
    "memoryview": lambda t, s: memoryview(t),
}

# What is asked for by its name, decisions, and text
SAID: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "item": lambda t, s: s.item(),
    "tolist": lambda t, s: t.tolist(),
    "numpy": lambda t, s: t.numpy(),
    "data": lambda t, s: t.data,
    "detach": lambda t, s: t.detach(),
    "Tensor of a leaf": lambda t, s: Tensor(Tensor([1.0], True)),
    "Tensor of what is detached": lambda t, s: Tensor(t.detach()),
    "float of what is detached": lambda t, s: float(s.detach()),
    "bool": lambda t, s: bool(s),
    "a comparison": lambda t, s: 1 if s < 5.0 else 0,
    "in": lambda t, s: 3.0 in t,
    "repr": lambda t, s: repr(t),
    "str": lambda t, s: str(s),
    "an f-string": lambda t, s: f"{s}",
    "an f-string of digits": lambda t, s: f"{s:.3f}",
    "hash": lambda t, s: hash(t),
    "len": lambda t, s: len(t),
    "shape": lambda t, s: np.shape(t),
}


@pytest.mark.parametrize("way", RECORDED)
def test_recorded(way: str) -> None:
    assert RECORDED[way](*computed()).requires_grad


@pytest.mark.parametrize("way", WARNED)
def test_warned_of(way: str) -> None:
    t, s = computed()
    with pytest.warns(
        UserWarning, match=r"(float|int): a Tensor .* becomes a number.* write \.item\(\) if that is intended"
    ) as seen:
        WARNED[way](t, s)
    assert {(w.filename, w.lineno) for w in seen} == {(__file__, WARNED[way].__code__.co_firstlineno)}
    for free in (t.detach(), Tensor(np.array([3.0, 4.0]))):
        WARNED[way](free, free[0])
    with tensorgrad.no_grad():
        WARNED[way](*computed())


@pytest.mark.parametrize("way", REFUSED)
def test_refused(way: str) -> None:
    with pytest.raises((DTypeError, GraphError, TypeError)):
        REFUSED[way](*computed())


@pytest.mark.parametrize("way", SAID)
def test_said(way: str) -> None:
    SAID[way](*computed())


def test_once_for_each_line() -> None:
    _, s = computed()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            first = float(s)
        second = math.exp(s)
    assert (first, second) == (3.0, math.exp(3.0))
    assert len(seen) == 2


def test_what_to_write_instead_is_said() -> None:
    t, _ = computed()
    with pytest.raises(GraphError, match=r"Tensor: the data are a Tensor computed by mul, .* \.detach\(\) if"):
        Tensor(t * 2)
    with pytest.raises(DTypeError, match=r"np\.add\.at cannot be recorded, .* \.detach\(\)\.numpy\(\)"):
        np.add.at(t, [0], 1.0)
    with pytest.raises(DTypeError, match=r"np\.multiply with out cannot be recorded, .* write tensorgrad\.mul, or"):
        np.multiply(Tensor([1.0, 2.0]), 2, out=t)


# What NumPy writes into a Tensor


@pytest.mark.parametrize("way", ["out", "two outs", "at", "where"])
def test_what_a_ufunc_writes(way: str) -> None:
    c, d = Tensor(np.array([1.0, 2.0])), Tensor(np.array([1.0, 2.0]))
    if way == "out":
        assert np.multiply(c, 2, out=c) is c
        expected = [2, 4]
    elif way == "two outs":
        fraction, whole = np.modf(Tensor(np.array([1.5, 2.25])), out=(d, c))
        assert fraction is d
        assert whole is c
        expected = [1, 2]
    elif way == "at":
        np.add.at(c, Tensor([0, 0], dtype=int), d)  # as NumPy does it: both are added
        expected = [1 + 1 + 2, 2]
    else:
        np.multiply(c, 10.0, out=c, where=Tensor([True, False], dtype=bool))
        expected = [10, 2]
    np.testing.assert_array_equal(c.data, expected)
    x = Tensor(np.ones(2), True)
    loss = (x * c).sum()
    np.negative(d, out=c)
    with pytest.raises(GraphError, match="changed in place later"):
        loss.backward()
