"""Checks for numbers, options and parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core.backend import is_array
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import ArgumentError


class Limits(NamedTuple):
    """The range of a number. open_low, open_high: whether a bound itself is excluded;  whole: integers only."""

    low: float = 0.0
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole: bool = False

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.open_low else f"at least {self.low:g}"
        if self.high == math.inf:
            return low
        return f"{low} and {'below' if self.open_high else 'at most'} {self.high:g}"

    def hold(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)


POSITIVE = Limits(open_low=True)
SHARE = Limits(high=1.0)
BELOW_ONE = Limits(high=1.0, open_high=True)
COUNT = Limits(low=1, whole=True)


def number(owner: str, name: str, value: Any, limits: Limits = Limits(), infinite: bool = False) -> float:  # noqa: B008
    """A numeric argument as a float: a Python number, a NumPy scalar, or a 0-d array or Tensor.

    infinite   whether inf is allowed

    Raises ArgumentError, naming the owner, for other types, NaN, and values out of range.
    """
    numeric: Any = value
    if type(value) is not float:
        kind = "an integer" if limits.whole else "a number"
        if isinstance(value, Tensor) and value.shape == ():
            numeric = value.item()
        elif (is_array(value) or isinstance(value, np.generic)) and value.shape == () and value.dtype.kind != "c":
            numeric = value.item() if value.dtype.kind != "V" else float(value)
        if isinstance(numeric, bool) or not isinstance(numeric, (int, float)):
            raise ArgumentError(f"{owner}: {name} must be {kind}, {limits}, got {value!r}")
        try:
            numeric = float(numeric)
        except OverflowError:
            numeric = math.inf if numeric > 0 else -math.inf
    if not limits.hold(numeric):
        raise ArgumentError(f"{owner}: {name} must be {limits}, got {value!r}")
    if numeric == math.inf and not infinite:
        raise ArgumentError(f"{owner}: {name} must be finite, got {value!r}")
    if limits.whole and numeric != numeric // 1:
        raise ArgumentError(f"{owner}: {name} must be an integer, {limits}, got {value!r}")
    return int(numeric) if limits.whole else numeric


def option(owner: str, name: str, value: Any) -> bool:
    """A boolean argument. Raises ArgumentError, naming the owner, for anything but True and False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ArgumentError(f"{owner}: {name} must be True or False, got {value!r}")
    return bool(value)


def parameters(owner: str, params: Any) -> list[Any]:
    """The list of parameters: a single Tensor becomes a list, a Module is replaced by its parameters.

    Raises ArgumentError, naming the owner, for no parameters, and for an unordered collection.
    """
    if isinstance(params, Tensor):
        return [params]
    if callable(getattr(params, "parameters", None)):
        entries = list(params.parameters())
    elif isinstance(params, (set, frozenset, Mapping)) or not isinstance(params, Iterable):
        raise ArgumentError(f"{owner}: params must be a list of Tensors, one Tensor or a Module, got {type(params).__name__}")
    else:
        entries = list(params)
    if not entries:
        used = " (a generator can be iterated once)" if not hasattr(params, "__len__") else ""
        raise ArgumentError(f"{owner}: params is empty{used}")
    return entries
