"""Compiled steps, by kind of fault: what is computed, what is read, what is written, what has changed since.

Every test compares a compiled step with the step itself, with a formula or with NumPy in float64. A compiled step may give
what the step gives, to rounding, or raise a CompileError that names the line of the test; everything else is wrong. The first
two calls run the step's Python, so nothing is replayed before the third: tests make at least four, the inputs changing.
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor
from tensorgrad.errors import CompileError
from tensorgrad.kernels import build, thresholds

# What the sums of some thousand numbers in another order differ by, as a share of the largest result: a few hundred units
# in the last place.
ROUNDING = {"float16": 1e-2, "float32": 3e-5, "float64": 1e-12}

HAS_NUMBA = build.has_numba
NEEDS_NUMBA = pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="needs Numba: pip install numba")
KERNELS = pytest.mark.parametrize(
    "numba",
    [False, pytest.param(True, marks=NEEDS_NUMBA)],
    ids=["numpy", "numba"],
)


class Runs:
    """A counter that the compiler cannot see: a step that changes a number which it can see is not replayed."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.add = self._numbers.__next__  # what a step calls

    @property
    def total(self) -> int:
        return int(repr(self._numbers)[len("count(") : -1])


def vec(value: float = 1.0, dtype: str = "float32") -> np.ndarray:
    return np.full(3, value, dtype)


def weight(value: float = 1.0, dtype: str = "float32") -> Tensor:
    return Tensor(vec(value, dtype), requires_grad=True)


def training(loss: Callable[..., Any], optimiser: Any) -> Callable[..., Any]:
    """The usual step."""

    def step(*args: Any) -> Any:
        value = loss(*args)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        return value

    return step


@contextmanager
def kernels(numba: bool) -> Iterator[None]:
    """With Numba's kernels, or as if it were not installed."""
    if build.has_numba() == numba:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "has_numba", HAS_NUMBA if numba else lambda: False)
        forget_kernels()
        yield
    forget_kernels()


def forget_kernels() -> None:
    """Those that have been chosen for the other case are kept by what they are for."""
    for name, function in vars(build).items():
        if name != "has_numba" and hasattr(function, "cache_clear"):
            function.cache_clear()


@contextmanager
def lowered(**values: float) -> Iterator[None]:
    """Thresholds so low that small arrays cross them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setattr(thresholds, name, value)
        yield


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    before = tg.get_num_threads()
    tg.set_num_threads(n)
    try:
        yield
    finally:
        tg.set_num_threads(before)


def snapshot(value: Any) -> Any:
    """Values as they are now: arrays copied out of Tensors, in the nest that they are in."""
    if isinstance(value, Tensor):
        return value.data.copy()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {key: snapshot(v) for key, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [snapshot(v) for v in value]
    return copy.copy(value)


def assert_close(found: Any, expected: Any, rtol: float | None = None, what: str = "", atol: float = 0.0) -> None:
    """The same nest, shapes and dtypes, and numbers that differ by at most `rtol` (by default ROUNDING) of the largest.

    atol   for what is nothing but rounding: the gradient of a bias before a batch norm
    """
    if isinstance(expected, Mapping):
        assert isinstance(found, Mapping), what
        assert list(found) == list(expected), what
        for key, v in expected.items():
            assert_close(found[key], v, rtol, f"{what}.{key}", atol)
    elif isinstance(expected, (tuple, list)):
        assert isinstance(found, (tuple, list)), what
        assert len(found) == len(expected), what
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_close(a, b, rtol, f"{what}[{i}]", atol)
    elif isinstance(expected, (np.ndarray, np.generic, Tensor)):
        a, b = (v.data if isinstance(v, Tensor) else v for v in (found, expected))
        assert isinstance(a, (np.ndarray, np.generic)), f"{what}: {a!r} for {b!r}"
        assert (a.shape, a.dtype) == (b.shape, b.dtype), what
        if b.dtype.kind != "f":
            np.testing.assert_array_equal(a, b, err_msg=what)
            return
        finite = np.abs(b[np.isfinite(b)]).max(initial=0.0)
        share = ROUNDING[b.dtype.name] if rtol is None else rtol
        np.testing.assert_allclose(a, b, share, max(float(share * finite), atol), err_msg=what)
    else:
        assert type(found) is type(expected), f"{what}: {found!r} for {expected!r}"
        assert found == expected or (found != found and expected != expected), f"{what}: {found!r} for {expected!r}"


def either(call: Callable[..., Any], *args: Any) -> tuple[Any, CompileError | None]:
    """The result of a call, or the CompileError that it is refused with, which says where in the test's code it is about."""
    try:
        return call(*args), None
    except CompileError as error:
        refused = error
    assert re.search(r"\b(test_\w+|__init__)\.py:[1-9]", str(refused)), f"no line of the test in: {refused}"
    return None, refused


class World(NamedTuple):
    """A step with all that it works on, made anew for the step itself and for the compiled one.

    look   what is to be the same after each call, besides the result
    """

    step: Callable[..., Any]
    look: Callable[[], Any] = lambda: None


class Told(NamedTuple):
    """What `agree` has found out: the compiled step, how often its Python ran, and what it was refused with, if it was."""

    compiled: Any
    runs: int
    refused: CompileError | None


def agree(
    make: Callable[[], World],
    calls: Sequence[tuple[Any, ...]],
    *,
    rtol: float | None = None,
    atol: float = 0.0,
    may_refuse: bool = True,
    before_call: Callable[[int], Any] = lambda i: None,
    tensors: bool = False,
    replays: bool = False,
    **options: Any,
) -> Told:
    """Call the step itself, and compiled, with the same arguments: results and what `look` shows are the same after each call.

    may_refuse    whether a CompileError that names the line is right as well
    before_call   called before each call, in both runs, with its number
    tensors       arguments are given as Tensors, which the step may write to, and compared after the call as well
    replays       whether the step's Python may run three times at most
    options       of compile
    """
    expected = []
    world = make()
    for i, args in enumerate(calls):
        before_call(i)
        given = as_tensors(args)
        result = world.step(*given)
        expected.append([snapshot(result), snapshot(world.look()), snapshot(given) if tensors else None])
    world, runs = make(), Runs()
    ran = runs.add

    def step(*args: Any, **kwargs: Any) -> Any:
        ran()
        return world.step(*args, **kwargs)

    compiled = tg.compile(step, **options)
    for i, args in enumerate(calls):
        before_call(i)
        given = as_tensors(args) if tensors else tuple(copy.deepcopy(a) for a in args)
        result, refused = either(compiled, *given)
        if refused:
            assert may_refuse, refused
            return Told(compiled, runs.total, refused)
        found = [snapshot(result), snapshot(world.look()), snapshot(given) if tensors else None]
        assert_close(found, expected[i], rtol, f"call {i + 1}", atol)
    assert not replays or runs.total <= 3, f"the step's Python ran {runs.total} times in {len(calls)} calls"
    return Told(compiled, runs.total, None)


def as_tensors(value: Any) -> Any:
    """Arguments as a step sees them: Tensors in the place of arrays."""
    if isinstance(value, np.ndarray):
        return Tensor(value)
    if isinstance(value, dict):
        return {key: as_tensors(v) for key, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(as_tensors(v) for v in value)
    return copy.deepcopy(value)


CHANGING = [(np.random.default_rng(0).normal(size=(4, 3)) * k,) for k in (1, 2, 1, 3, 0.5, 2)]


def change_after_three(make: Callable[[], tuple[World, Callable[[], Any]]], **options: Any) -> Told:
    """`agree` for a step with what changes its world: six calls with CHANGING, the change before the fourth."""
    changes: list[Callable[[], Any]] = []

    def world() -> World:
        made, change = make()
        changes[:] = [change]
        return made

    def before_call(i: int) -> None:
        if i == 3:
            changes[0]()

    with np.errstate(all="ignore"):
        return agree(world, CHANGING, rtol=1e-9, before_call=before_call, **options)
