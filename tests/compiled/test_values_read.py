"""F: Python code that reads the values of a Tensor, by whatever way, sees each call's; or it is refused.

A replay does not run Python, so a value that is read would be that of the first calls for ever.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor
from tensorgrad.protocols import UFUNCS
from tests.compiled import World, agree, vec, weight

# A number that depends on the values of t
READS: dict[str, Callable[[Any], Any]] = {
    ".data.max()": lambda t: t.data.max(),
    ".data.sum()": lambda t: float(t.data.sum()),
    ".data[0]": lambda t: t.data[0],
    "float(.data[0])": lambda t: float(t.data[0]),
    ".data.item(0)": lambda t: t.data.item(0),
    ".data.tolist()": lambda t: t.data.tolist()[0],
    ".data, a branch": lambda t: 2.0 if t.data[0] > 1 else 3.0,
    ".data.any()": lambda t: 2.0 if (t.data > 1).any() else 3.0,
    ".data, an array of it": lambda t: t.data * 2,
    ".data, copied": lambda t: t.data.copy(),
    ".data, itself": lambda t: t.data,
    ".data, a part": lambda t: t.data[:1],
    ".data, in a Tensor": lambda t: Tensor(t.data),
    ".data, in a list": lambda t: Tensor([float(v) for v in t.data]),
    "np.array(.data)": lambda t: np.array(t.data),
    "np.argmax(.data)": lambda t: float(np.argmax(t.data)),
    "memoryview": lambda t: memoryview(t.data)[0],
    "bytes": lambda t: float(np.frombuffer(t.data.tobytes(), t.dtype)[0]),
    "numpy()": lambda t: t.numpy().max(),
    "detach().numpy()": lambda t: t.detach().numpy().max(),
    "item()": lambda t: t.max().item(),
    "float()": lambda t: float(t[0]),
    "tolist()": lambda t: t.tolist()[0],
    "format": lambda t: float(f"{t[0].detach():.6f}"),
    "repr": lambda t: float(len(repr(t))),
    "np.asarray": lambda t: np.asarray(t.detach()).max(),
    "np.from_dlpack": lambda t: np.from_dlpack(t.detach()).max(),
    "tg.from_dlpack": lambda t: tg.from_dlpack(t.detach()).sum(),
    "pickle": lambda t: pickle.loads(pickle.dumps(t.detach())),
    "deepcopy": lambda t: copy.deepcopy(t.detach()),
    "copy": lambda t: copy.copy(t.detach()),
    "int()": lambda t: int(t[0]) + 0.5,
    "bool()": lambda t: 2.0 if t[0] > 1 else 3.0,
    "an index": lambda t: [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0][t[0].astype("int64")],
    "range": lambda t: float(len(range(t[0].detach().astype("int64")))),
    "in": lambda t: 2.0 if 1.0 in t.detach() else 3.0,
    "max()": lambda t: max(t.detach()),
    "sorted()": lambda t: sorted(t.detach())[0],
}


class Read:
    """What is read, for each of them a step."""

    @staticmethod
    def argument(read: Callable[[Any], Any]) -> World:
        return World(lambda x: x * read(x))

    @staticmethod
    def intermediate(read: Callable[[Any], Any]) -> World:
        w = weight(1, "float64")
        return World(lambda x: x * read(x * w))

    @staticmethod
    def gradient(read: Callable[[Any], Any]) -> World:
        w = weight(1, "float64")

        def step(x: Any) -> Any:
            w.grad = None
            (x * w).sum().backward()
            return x * read(w.grad)

        return World(step)


@pytest.mark.filterwarnings("ignore:.*a Tensor that requires a gradient becomes a number")
@pytest.mark.parametrize("what", ["argument", "intermediate", "gradient"])
@pytest.mark.parametrize("name", READS)
def test_values_that_are_read(name: str, what: str) -> None:
    """The same values in three calls, others after that."""
    calls = [(vec(v, "float64"),) for v in (1, 1, 1, 2, 4)]
    agree(lambda: getattr(Read, what)(READS[name]), calls)


@pytest.mark.parametrize("what", ["parameter", "Tensor"])
@pytest.mark.parametrize("name", [n for n in READS if "data" in n])
def test_values_from_outside_that_are_read(name: str, what: str) -> None:
    """Changed between the calls, as by another optimiser, or by a callback."""
    kept: list[Any] = []

    def make() -> World:
        t: Any = Tensor(vec(1, "float64"), requires_grad=what == "parameter")
        kept[:] = [t]
        return World(lambda x: x * READS[name](t) * t.sum())

    def before_call(i: int) -> None:
        kept[0].data[...] = max(1, i - 1)

    agree(make, [(vec(v, "float64"),) for v in (1, 2, 3, 2, 4)], before_call=before_call)


KNOWN = {p.partition("=")[0] for p in UFUNCS.split()}
WITHOUT_AN_OP = [
    name
    for name, f in vars(np).items()
    if isinstance(f, np.ufunc) and f.nout == 1 and f.nin in (1, 2) and name not in KNOWN and f.__name__ not in KNOWN
]


@pytest.mark.parametrize("name", WITHOUT_AN_OP)
def test_functions_of_numpy_that_are_no_ops(name: str) -> None:
    """They compute arrays of arrays, beside what is recorded."""
    function = getattr(np, name)
    args = [np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, 3.0])][: function.nin]
    with np.errstate(all="ignore"):
        for dtype in ("float64", "int64", "bool"):
            try:
                function(*[a.astype(dtype) for a in args])
            except (TypeError, ValueError):  # is not of these, or of matrices
                continue
            calls = [tuple((a * k).astype(dtype) for a in args) for k in (1, 1, 1, 2, 0)]
            agree(lambda: World(lambda x, *y: x * function(x, *y)), calls)
            return
