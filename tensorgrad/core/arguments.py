"""Checks of arguments other than arrays: axes, sizes, numbers. Each is converted once, with errors that name it.

Integers are whatever Python's `operator.index` accepts: also NumPy's integers, 0-d integer arrays and Tensors, but no
fractions, not even 1.0, and no booleans.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core import backend
from tensorgrad.core.signature import Axis, Shape
from tensorgrad.core.state import describe, scoped
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import ArgumentError, DeviceMemoryError, DTypeError, ShapeError

LARGE = 2**28  # results from this size, in bytes, are compared with the available memory


def integer(op: str, what: str, value: Any, least: int | None = None) -> int:
    """`value` as an int >= least, and not larger than any array's size."""
    if type(value) is not int:
        if not is_integer(value):
            raise DTypeError(f"{scoped(op)}: {what} must be an integer, got {describe(value)}")
        value = operator.index(value)
    if least is not None and value < least:
        raise ArgumentError(f"{scoped(op)}: {what} must be at least {least}, got {value}")
    if not -(2**63) <= value < 2**63:
        raise ArgumentError(f"{scoped(op)}: {what} is {value}, larger than any array")
    return int(value)


def integers(op: str, what: str, value: Any, least: int | None = None) -> Shape:
    """One integer or a sequence of them, as a tuple."""
    if not is_sequence(value):
        if not is_integer(value):
            raise DTypeError(f"{scoped(op)}: {what} must be an integer or several, got {describe(value)}")
        value = (value,)
    return tuple([integer(op, what, n, least) for n in value])


def sizes(op: str, shape: Any, least: int = 0) -> Shape:
    """A shape: one size or several."""
    if type(shape) is tuple:
        for n in shape:
            if type(n) is not int or n < least:
                break
        else:
            return shape
    values = integers(op, "a size of the shape", shape)
    if any(n < least for n in values):
        raise ShapeError(f"{scoped(op)}: the shape {values} has a size less than {least}")
    return values


def axis_in(op: str, axis: Any, ndim: int, what: str = "axis") -> int:
    """A non-negative axis. Raises ShapeError if it does not exist."""
    i = axis if type(axis) is int else integer(op, what, axis)
    if not -ndim <= i < ndim:
        raise ShapeError(f"{scoped(op)}: {what} {i} is out of bounds for {ndim} axes")
    return i + ndim if i < 0 else i


def axes_in(op: str, axis: Any, ndim: int, what: str = "axis") -> Shape:
    """The axes named by `axis`, one, several or (None) all, as distinct non-negative numbers in the given order."""
    if axis is None:
        return tuple(range(ndim))
    if type(axis) is int or not is_sequence(axis):
        return (axis_in(op, axis, ndim, what),)
    axes = tuple([axis_in(op, a, ndim, what) for a in axis])
    if len(set(axes)) < len(axes):
        raise ShapeError(f"{scoped(op)}: {what} {describe(axis)} names an axis twice, for {ndim} axes")
    return axes


def integer_axes(op: str, axis: Any) -> Axis:
    """An axis, several or None as Python integers, unchanged: the op checks whether they exist."""
    if axis is None or type(axis) is int:
        return axis
    if is_sequence(axis):
        return tuple([integer(op, "each axis", a) for a in axis])
    return integer(op, "axis", axis)


def number(op: str, what: str, value: Any) -> Any:
    """`value` as a Python number: also from NumPy's numbers, and 0-d arrays and Tensors.

    Raises DTypeError for anything else, and for a Tensor that requires a gradient, because it would get none.
    """
    if type(value) is float or type(value) is int:
        return value
    if isinstance(value, Tensor):
        if value.requires_grad:
            raise DTypeError(f"{scoped(op)}: {what} is a number and has no gradient, but the Tensor requires one; .detach() it")
        if not value.ndim and value.dtype != bool and backend.is_number(value.dtype):
            value._require_concrete(f"{what} of {op}")
            return value._data.item()
    elif backend.is_array(value):
        if not value.ndim and value.dtype != bool and backend.is_number(value.dtype):
            return float(value) if backend.is_floating(value.dtype) else int(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    raise DTypeError(f"{scoped(op)}: {what} must be a number, got {describe(value)}")


def tolerance(op: str, what: str, value: Any, *, zero: bool = False) -> float:
    """A finite positive number; non-negative if `zero`."""
    checked = number(op, what, value)
    try:
        checked = float(checked)
    except OverflowError:
        checked = math.inf
    if not (checked >= 0 if zero else checked > 0) or math.isinf(checked):
        raise ArgumentError(
            f"{scoped(op)}: {what} must be finite and {'non-negative' if zero else 'positive'}, got {describe(value)}"
        )
    return checked


def truth(op: str, what: str, value: Any) -> bool:
    """A boolean, also NumPy's."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise DTypeError(f"{scoped(op)}: {what} must be True or False, got {describe(value)}")


def choice(op: str, what: str, value: Any, names: Sequence[str]) -> str:
    """`value` if it is one of the known names."""
    if isinstance(value, str) and value in names:
        return value
    expected = " or ".join([f'"{name}"' for name in names])
    raise ArgumentError(f"{scoped(op)}: {what} is {describe(value)}, expected {expected}")


def seed_of(op: str, value: Any) -> int | None:
    """The seed of a generator: a non-negative integer of any size, or None."""
    if value is None:
        return None
    if not is_integer(value) or (seed := operator.index(value)) < 0:
        raise ArgumentError(f"{scoped(op)}: the seed must be None or a non-negative integer, got {describe(value)}")
    return seed


def dtype_of(op: str, value: Any, kinds: str = "fiub") -> np.dtype[Any]:
    """A floating, integer or boolean NumPy dtype."""
    dtype: np.dtype[Any] = backend.as_dtype(value, scoped(op))
    if not (dtype.kind in kinds or ("f" in kinds and backend.is_floating(dtype))):
        raise DTypeError(f"{scoped(op)}: expected a floating, integer or boolean dtype, got {dtype}")
    return dtype


def is_sequence(value: Any) -> bool:
    """Whether axes or sizes are in a sequence: a tuple, list, range, or an array or Tensor with an axis."""
    return isinstance(value, (tuple, list, range)) or getattr(value, "ndim", 0) == 1


def is_integer(value: Any) -> bool:
    """Whether `integer` accepts it."""
    if isinstance(value, (bool, np.bool_)):
        return False
    if isinstance(value, Tensor):
        return not value.ndim and value.dtype.kind in "iu"
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def check_memory(op: str, shape: Shape, itemsize: int) -> None:
    """Raise DeviceMemoryError for a result larger than half of the available memory, because intermediates need some too."""
    nbytes = math.prod(shape) * itemsize
    if nbytes >= LARGE and 2 * nbytes > (available := backend.memory_left()):
        gib = f"{nbytes / 2**30:,.0f} GiB, {available / 2**30:,.0f} are left"
        raise DeviceMemoryError(f"{scoped(op)}: a result of shape {shape} takes {gib}")
