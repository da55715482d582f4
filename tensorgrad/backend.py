"""Where arrays live: NumPy or CuPy, found from the arrays themselves."""

from __future__ import annotations

import math
import sys
import threading
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from tensorgrad.errors import DTypeError

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray; CuPy is not there to be named when it is not installed
Xp: TypeAlias = Any  # the module that made the array: numpy or cupy

DEFAULT_FLOAT = np.float32
POOLED = 262_144  # bytes from which `new` takes memory from the pool

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


class Pool(threading.local):
    """Large pieces of memory of this thread, to be used again when no array lies in them any more.

    A piece is known to be free by nobody but the pool referring to it: NumPy lets every view refer to the array that owns the
    memory. Fresh memory from the system costs a page fault for every 4 KiB: as much as the arithmetic on it.
    """

    def __init__(self) -> None:
        self.pieces: dict[int, list[Array]] = {}
        self.asked = 0

    def take(self, nbytes: int) -> Array:
        pieces = self.pieces.setdefault(nbytes, [])
        self.asked += 1
        if self.asked % 4096 == 0:
            self.drop()
        for piece in pieces:
            if sys.getrefcount(piece) == 3:  # the list, the loop, and the call
                return piece
        piece = aligned(nbytes).base
        if len(pieces) < 64:
            pieces.append(piece)
        return piece

    def drop(self) -> None:
        """Give back what nobody uses at the moment."""
        for nbytes, pieces in list(self.pieces.items()):
            del self.pieces[nbytes]
            used = [piece for piece in pieces if sys.getrefcount(piece) > 4]
            if used:
                self.pieces[nbytes] = used


_pool = Pool()


def new(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array of this shape and dtype, with anything in it."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < POOLED:
        return np.empty(shape, dtype)
    memory = _pool.take(nbytes)
    start = -memory.__array_interface__["data"][0] % 64
    return memory[start : start + nbytes].view(dtype).reshape(shape)
