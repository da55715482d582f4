"""M: arguments of every form, and what NumPy's users do with them: inside of a step they are Tensors."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, optim
from tensorgrad.errors import CompileError, DTypeError, TensorgradError
from tests.compiled import assert_close, either, training, vec, weight

Point = collections.namedtuple("Point", "a b")


class Named(tuple):  # type: ignore[type-arg]
    """A tuple that is made of its parts one by one."""

    def __new__(cls, a: Any, b: Any) -> Named:
        return super().__new__(cls, (a, b))


@dataclasses.dataclass
class Batch:
    a: Any
    b: Any = 2.0


class Listed(list):  # type: ignore[type-arg]
    pass


ARGUMENTS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any], Any]]] = {  # made of two arrays, and used
    "tuple": (lambda a, b: (a, b), lambda p: p[0] + p[1]),
    "list": (lambda a, b: [a, b], lambda p: p[0] + p[1]),
    "dict": (lambda a, b: {"a": a, "b": b}, lambda p: p["a"] + p["b"]),
    "namedtuple": (lambda a, b: Point(a, b), lambda p: p.a + p.b),
    "namedtuple in a list": (lambda a, b: [Point(a, (b,))], lambda p: p[0].a + p[0].b[0]),
    "a tuple's subclass": (lambda a, b: Named(a, b), lambda p: p[0] + p[1]),
    "a list's subclass": (lambda a, b: Listed([a, b]), lambda p: p[0] + p[1]),
    "OrderedDict": (lambda a, b: collections.OrderedDict(a=a, b=b), lambda p: p["a"] + next(reversed(p.values()))),
    "defaultdict": (lambda a, b: collections.defaultdict(list, a=a, b=b), lambda p: p["a"] + p["b"]),
    "dataclass": (lambda a, b: Batch(a, b), lambda p: p.a + p.b),
    "dataclass in a tuple": (lambda a, b: (Batch(a), b), lambda p: p[0].a * p[0].b - p[0].a + p[1]),
    "deque": (lambda a, b: collections.deque([a, b]), lambda p: p[0] + p[1]),
    "scalars": (lambda a, b: (a, b[0]), lambda p: p[0] + p[1]),
    "empty": (lambda a, b: ((), [], {}, a, b), lambda p: p[3] + p[4]),
    "None": (lambda a, b: (None, a, b), lambda p: p[1] + p[2] if p[0] is None else 0),
    "a range": (lambda a, b: (range(2), a, b), lambda p: p[1] + p[2] * len(p[0]) - p[2]),
    "text": (lambda a, b: {"how": "add", "a": a, "b": b}, lambda p: p["a"] + p["b"] if p["how"] == "add" else 0),
    "a slice": (lambda a, b: (slice(0, 3), a, b), lambda p: p[1][p[0]] + p[2]),
    "a dtype": (lambda a, b: (np.dtype("float32"), a, b), lambda p: (p[1] + p[2]).astype(p[0])),
    "a function": (lambda a, b: (np.add, a, b), lambda p: p[0](p[1], p[2])),
    "a list of floats": (lambda a, b: ([float(b[0])], a), lambda p: p[1] + p[0][0]),
    "a column": (lambda a, b: (a, np.stack([b, b], 1)[:, 0]), lambda p: p[0] + p[1]),
    "turned round": (lambda a, b: (a[::-1], b), lambda p: p[0] + p[1]),
    "read only": (lambda a, b: (a, frozen(b)), lambda p: p[0] + p[1]),
    "in Fortran's order": (lambda a, b: (np.asfortranarray(np.stack([a, a])), b), lambda p: (p[0] + p[1])[0]),
    "a subclass of arrays": (lambda a, b: (a, b.view(np.recarray)), lambda p: p[0] + p[1]),
}


MAY_BE_REFUSED = """dataclass, dataclass in a tuple, deque, a function, a range, a slice, a dtype, a tuple's subclass,
a subclass of arrays"""


def frozen(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


@pytest.mark.parametrize("keyword", [False, True], ids=["", "keyword"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_of_every_form(name: str, keyword: bool) -> None:
    """A result, or a CompileError that names the line; the dtypes are those of the arrays."""
    create, use = ARGUMENTS[name]
    compiled = tg.compile(lambda p: use(p))
    for v in (1, 2, 3, 4, 5):
        argument = create(vec(v), vec(10 * v))
        try:
            found = compiled(p=argument) if keyword else compiled(argument)
        except CompileError:  # it is about the call
            break
        assert_close(found, vec(11 * v))
    else:
        return
    assert name in MAY_BE_REFUSED


# NumPy's methods on arguments, which are Tensors inside of a step

A = np.array([[1, 2, 3], [4, 5, 7]])
METHODS: dict[str, Callable[[Any], Any]] = {
    "~a": lambda a: ~a,
    "a & 1": lambda a: a & 1,
    "a | 1": lambda a: a | 1,
    "a ^ 1": lambda a: a ^ 1,
    "1 & a": lambda a: 1 & a,
    "a << 1": lambda a: a << 1,
    "a >> 1": lambda a: a >> 1,
    "divmod": lambda a: divmod(a, 2)[1],
    "ravel": lambda a: a.ravel(),
    "argsort": lambda a: a.argsort(),
    "sort": lambda a: a.sort() or a,
    "nonzero": lambda a: a.nonzero()[0],
    "copy": lambda a: a.copy(),
    "fill": lambda a: a.fill(3) or a,
    "tobytes": lambda a: len(a.tobytes()) + 0 * a,
    "astype": lambda a: a.astype(float),
    "mean": lambda a: a.mean(axis=0),
    "sum(axis)": lambda a: a.sum(axis=(0, 1)),
    "sum(dtype)": lambda a: a.sum(dtype=float),
    "std(ddof)": lambda a: a.std(ddof=1),
    "ptp": lambda a: np.ptp(a, 0),
    "cumprod": lambda a: a.cumprod(0),
    "trace": lambda a: a.trace(),
    "conj": lambda a: a.conj(),
    "clip": lambda a: a.clip(2, 4),
    "round": lambda a: a.round(1),
    "view": lambda a: a.view(np.uint64),
    "flat": lambda a: next(iter(a.flat)) + 0 * a,
    "real": lambda a: a.real,
    "nbytes": lambda a: a.nbytes + 0 * a,
    "itemsize": lambda a: a.itemsize + 0 * a,
    "strides": lambda a: a.strides[0] + 0 * a,
    "T": lambda a: a.T,
    "swapaxes": lambda a: a.swapaxes(0, 1),
    "tolist": lambda a: np.array(a.tolist()),
    "a[mask]": lambda a: a[a > 2],
    "a[..., None]": lambda a: a[..., None],
    "len": lambda a: len(a) + 0 * a,
    "in": lambda a: (5 in a) + 0 * a,
    "for": lambda a: sum(row for row in a),
    "searchsorted": lambda a: a[0].searchsorted(2) + 0 * a,
    "dot": lambda a: a.dot(a.T),
    "a @ a.T": lambda a: a @ a.T,
    "+=": lambda a: a.__iadd__(0),
    "a.shape = ": lambda a: setattr(a, "shape", (3, 2)) or a,
    "isinstance": lambda a: a * (2 if isinstance(a, np.ndarray) else 3),
    "np.unique": lambda a: np.unique(a),
    "np.sort": lambda a: np.sort(a, 0),
    "np.bincount": lambda a: np.bincount(a[0]),
    "np.invert": lambda a: np.invert(a),
    "np.bitwise_and": lambda a: np.bitwise_and(a, 3),
    "np.add(out)": lambda a: np.add(a, 1, out=np.zeros((2, 3), int)),
    "np.cumprod": lambda a: np.cumprod(a, 0),
    "np.diff": lambda a: np.diff(a),
    "np.median": lambda a: np.median(a),
    "np.linalg.norm": lambda a: np.linalg.norm(a),
    "np.asarray": lambda a: np.asarray(a),
    "np.zeros_like": lambda a: np.zeros_like(a),
}


@pytest.mark.filterwarnings("ignore:Setting the shape on a NumPy array:DeprecationWarning")  # but it is still to be had
@pytest.mark.parametrize("name", [n for n in METHODS if n not in ("isinstance",)])
def test_methods_of_numpy_on_arguments(name: str) -> None:
    """NumPy's values, or an error that says that arguments come as Tensors."""
    compiled = tg.compile(METHODS[name])
    for k in (1, 1, 1, 2, 3):
        expected = np.asarray(METHODS[name](A.copy() * k))
        found, error = None, None
        try:
            found, error = either(compiled, A.copy() * k)
        except Exception as other:
            error = other
        if error:
            said = "\n".join([type(error).__name__, str(error), *getattr(error, "__notes__", [])])
            assert "Tensor" in said
            assert isinstance(error, TensorgradError) or "argument" in said, said
            return
        np.testing.assert_allclose(found.numpy() if isinstance(found, Tensor) else np.asarray(found), expected, 1e-6)


def test_a_step_that_has_no_arguments() -> None:
    w = weight()
    compiled = tg.compile(training(lambda: (w * w).sum(), optim.SGD([w], lr=0.1)))
    losses = [compiled().item() for _ in range(5)]
    assert losses == pytest.approx([3 * 0.8 ** (2 * i) for i in range(5)], rel=1e-5)


NO_NUMBERS: dict[str, Any] = {
    "text": np.array(["a", "b"]),
    "objects": np.array([1, None], object),
    "complex": np.array([1 + 2j, 0]),
    "dates": np.array(["2020-01-01"], "M8[D]"),
    "masked": np.ma.array([1.0, 2.0], mask=[False, True]),
    "fields": np.zeros(2, [("a", "f4")]),
}


@pytest.mark.parametrize("name", NO_NUMBERS)
def test_arrays_that_no_tensor_is_made_of(name: str) -> None:
    """Refused as a Tensor of them is, before the step runs."""
    with pytest.raises(DTypeError) as expected:
        Tensor(NO_NUMBERS[name])
    ran = []

    @tg.compile
    def step(batch: Any) -> Any:
        ran.append(1)
        return batch["x"] + 1

    for call in (step, step, step.call_step):
        with pytest.raises(DTypeError) as error:
            call({"x": NO_NUMBERS[name]}) if call is step else call(({"x": NO_NUMBERS[name]},), {})
        assert str(error.value) == str(expected.value).replace("Tensor:", "an argument of a compiled step:")
    assert not ran


def test_subclasses_of_numpys_arrays(tmp_path: Path) -> None:
    """They are arrays like any other, with the rules of those."""
    x = np.arange(6.0).reshape(2, 3)
    kept = np.memmap(tmp_path / "x", x.dtype, "w+", shape=x.shape)
    kept[:] = x
    step = tg.compile(lambda x: x * x + 1)
    for given in (x, kept, x.view(np.matrix), x.view(np.recarray), x):
        for _ in range(3):
            found = step(given)
            assert type(found.data) is np.ndarray
            assert_close(found, x * x + 1, 1e-12)
        assert not step.why_not
