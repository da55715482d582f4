"""Checks for arguments of layers and losses: `caller` is the layer, `name` the argument."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from tensorgrad.core.backend import DEFAULT_FLOAT, Array, as_dtype, is_array, is_floating, is_number, on_gpu
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError
from tensorgrad.nn import init
from tensorgrad.nn.hidden import described


def describe(value: Any) -> str:
    """A value for an error message: numbers and text as written in code."""
    if isinstance(value, np.generic):
        value = value.item()
    return repr(value) if isinstance(value, (bool, int, float, complex, str, type(None), tuple, list)) else described(value)


INTEGERS = {0: "a non-negative integer", 1: "a positive integer"}


def integer(caller: str, name: str, value: Any, least: int | None = 0) -> int:
    """An integer >= least: Python's, NumPy's, or a 0-d array."""
    expected = "an integer" if least is None else INTEGERS.get(least, f"an integer of at least {least}")
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ArgumentError(f"{caller}: {name} must be {expected}, got {describe(value)}") from None
    if least is not None and number < least:
        raise ArgumentError(f"{caller}: {name} must be {expected}, got {number}")
    return number


def integers(caller: str, name: str, value: Any, least: int | None = 0) -> tuple[int, ...]:
    """One integer, or a tuple or list of integers."""
    if isinstance(value, (tuple, list)) or (isinstance(value, np.ndarray) and value.ndim == 1):
        return tuple(integer(caller, f"{name}[{i}]", n, least) for i, n in enumerate(value))
    return (integer(caller, name, value, least),)


def several(caller: str, name: str, value: Any, axes: int, least: int) -> tuple[int, ...]:
    """One integer for all axes, or one per axis."""
    numbers = integers(caller, name, value, least)
    if isinstance(value, (tuple, list, np.ndarray)) and np.ndim(value) and len(numbers) != axes:
        expected = ("", "", " or two, for rows and for columns", " or three")[axes]
        raise ArgumentError(f"{caller}: {name} must be an integer{expected}, got {describe(value)}")
    return numbers if len(numbers) == axes else numbers * axes


def sizes(caller: str, name: str, value: Any, axes: int, least: int) -> int | tuple[int, ...]:
    """Like `several`, but a single integer stays one."""
    numbers = several(caller, name, value, axes, least)
    return numbers if np.ndim(value) else numbers[0]


def real(caller: str, name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> float:
    """A finite number from `low` to `high`; if `above`, greater than `low`."""
    expected = (
        "a finite number" if low == -math.inf else f"a number above {low:g}" if above else f"a number of at least {low:g}"
    )
    expected = f"a number in {low:g} .. {high:g}" if high < math.inf else expected
    try:
        if isinstance(value, (bool, np.bool_, str)) or (isinstance(value, Tensor) and value.requires_grad):
            raise TypeError
        if isinstance(value, (Tensor, np.ndarray)) and (value.ndim or value.dtype == bool or not is_number(value.dtype)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise ArgumentError(f"{caller}: {name} must be {expected}, got {describe(value)}") from None
    if not (low < number if above else low <= number) or not number <= high or not math.isfinite(number):
        raise ArgumentError(f"{caller}: {name} must be {expected}, got {describe(value)}")
    return number


def flag(caller: str, name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ArgumentError(f"{caller}: {name} must be True or False, got {describe(value)}")
    return bool(value)


def one_of(caller: str, name: str, value: Any, choices: tuple[str, ...]) -> str:
    """One of the known words."""
    if not isinstance(value, str) or value not in choices:
        raise ArgumentError(f"{caller}: {name} must be one of {', '.join(choices)}, got {describe(value)}")
    return value


def as_floating(caller: str, dtype: Any) -> np.dtype[Any]:
    """A floating dtype; None for the default dtype of parameters."""
    try:
        result: np.dtype[Any] = as_dtype(DEFAULT_FLOAT if dtype is None else dtype, caller)
    except DTypeError:
        raise DTypeError(f"{caller}: dtype must be a floating dtype such as 'float32', got {describe(dtype)}") from None
    if not is_floating(result):
        raise DTypeError(f"{caller}: dtype must be a floating dtype such as 'float32', got {result}")
    return result


def generator(caller: str, rng: Any) -> Any:
    """A NumPy generator; None for the default one."""
    if rng is not None and not isinstance(rng, (np.random.Generator, np.random.RandomState)):
        raise ArgumentError(
            f"{caller}: rng must be a generator, such as numpy.random.default_rng(0), or None, got {describe(rng)}"
        )
    return rng


def initial_values(caller: str, name: str, make: Any, shape: tuple[int, ...], rng: Any) -> Array:
    """Initial values of a shape, drawn by an initialiser."""
    if any(make is getattr(init, maker) for maker in init.MAKERS):
        raise ArgumentError(f"{caller}: {name} must be an initialiser; call nn.init.{make.__name__}(...)")
    if not callable(make):
        raise ArgumentError(
            f"{caller}: {name} must be a function of (shape, generator), like those of nn.init, got {describe(make)}"
        )
    values = make(shape, rng)
    if np.shape(values) != shape:
        raise ShapeError(f"{caller}: {name} returned values of shape {np.shape(values)}, expected {shape}")
    if isinstance(values, np.ndarray) and is_floating(values.dtype) and not np.isfinite(values).all():
        raise ArgumentError(f"{caller}: {name} returned values that are not finite")
    return values


def weights(caller: str, name: str, value: Any, ndim: int | None = None) -> Any:
    """Finite weights, returned unchanged, or None."""
    if value is None:
        return None
    expected = "finite numbers" if ndim is None else "one finite number per class"
    try:
        array = value._data if isinstance(value, Tensor) else value if is_array(value) else np.asarray(value)
    except ValueError:  # ragged list
        array = np.empty((), object)
    is_wrong = not is_number(array.dtype) or (ndim is not None and array.ndim != ndim)
    if is_wrong or (not on_gpu(array) and not np.isfinite(array).all()):  # a check on a GPU would wait for it
        raise ArgumentError(f"{caller}: {name} must be {expected}, got {describe(value)}")
    return value
