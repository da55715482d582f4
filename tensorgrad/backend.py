"""Where arrays live: NumPy or CuPy, found from the arrays themselves."""

from __future__ import annotations

from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from tensorgrad.errors import DTypeError

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray; CuPy is not there to be named when it is not installed
Xp: TypeAlias = Any  # the module that made the array: numpy or cupy

DEFAULT_FLOAT = np.float32

_namespaces: dict[type, ModuleType] = {np.ndarray: np}


def namespace(arrays: Any) -> Xp:
    """The array module of the first array among `arrays`; numpy when there are only numbers."""
    for a in arrays:
        if type(a) in _namespaces:
            return _namespaces[type(a)]
    for a in arrays:
        if type(a).__module__.partition(".")[0] == "cupy":
            import cupy

            _namespaces[cupy.ndarray] = cupy
            return cupy
    return np


def is_array(value: object) -> bool:
    """Whether `value` is an array (or an array scalar) of one of the array modules."""
    return isinstance(value, (np.ndarray, np.generic)) or type(value).__module__.partition(".")[0] == "cupy"


def asarray(value: Any, dtype: Any = None, *, where: str = "Tensor") -> Array:
    """`value` as an array: arrays keep their dtype and are not copied, numbers and lists of numbers become float32.

    Raises DTypeError, with `where` naming who asked, for what is not made of numbers or booleans.
    """
    if is_array(value):
        array = value if dtype is None else value.astype(dtype, copy=False)
        array = array if hasattr(array, "flags") and not isinstance(array, np.generic) else np.asarray(array)
    else:
        try:
            array = np.asarray(value, dtype)
        except (ValueError, TypeError) as error:
            raise DTypeError(f"{where}: cannot make an array of {type(value).__name__}: {error}") from error
        if dtype is None and array.dtype.kind in "iuf":
            array = array.astype(DEFAULT_FLOAT)
    if array.dtype.kind not in "biuf":
        raise DTypeError(f"{where}: expected numbers or booleans, got dtype {array.dtype} (from {type(value).__name__})")
    return array


def aligned(nbytes: int) -> Array:
    """So many bytes of memory, beginning where a line of the cache does: a vector register is filled by one access there."""
    memory = np.empty(nbytes + 63, np.uint8)
    start = -memory.__array_interface__["data"][0] % 64
    return memory[start : start + nbytes]
