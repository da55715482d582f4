"""Aligned memory for arrays, reused when no array refers to it."""

from __future__ import annotations

import ctypes
import math
import weakref
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, copy, cupy, on_gpu
from tensorgrad.core.state import state

POOLED = 262_144  # minimum bytes for which `new` uses the pool
TRACED = 64 << 20  # unused bytes that are kept while a step is traced, which needs more memory than its plan


def aligned(nbytes: int) -> Array:
    """Memory aligned to a cache line, so that a vector register is filled by one access."""
    memory = np.empty(nbytes + 63, np.uint8)
    start = -memory.__array_interface__["data"][0] % 64
    return memory[start : start + nbytes]


def empty_bytes(nbytes: int, like: Array) -> Array:
    """Aligned memory on the device of `like`."""
    return cupy().empty(nbytes, np.uint8) if on_gpu(like) else aligned(nbytes)


class Lease(weakref.ref[Any]):
    """Notifies when no array refers to a piece of the pool any more."""

    __slots__ = ("piece",)
    piece: Array


class Pool:
    """Large pieces of memory that are reused when no array refers to them.

    Fresh memory costs a page fault for every 4 KiB: as much as the arithmetic on it. For each use of a piece a new ctypes
    object provides the memory to the array. Every view of the array, and anything else that NumPy derives from its memory,
    keeps that object alive. When it is deleted, in any thread, the piece is free. Reference counts are not used, because they
    differ between versions of Python.
    """

    def __init__(self) -> None:
        self.free: dict[int, list[Array]] = {}
        self.lent: dict[int, Lease] = {}  # by their own ids; keeps the weak references alive
        self.requests = 0

    def take(self, nbytes: int) -> Any:
        """A ctypes object for so many bytes, aligned to a cache line."""
        self.requests += 1
        if self.requests % 4096 == 0:
            self.drop()
        try:
            piece = self.free[nbytes].pop()
        except (KeyError, IndexError):
            if state.trace is not None and self.unused() > TRACED:
                self.drop()
            piece = aligned(nbytes)
        owner = (ctypes.c_char * nbytes).from_buffer(piece)
        lent = Lease(owner, self.give_back)
        lent.piece = piece
        self.lent[id(lent)] = lent
        return owner

    def give_back(self, lent: Any) -> None:
        """Return a piece; may be called by any thread at any time."""
        del self.lent[id(lent)]
        pieces = self.free.setdefault(lent.piece.nbytes, [])
        if len(pieces) < 64:
            pieces.append(lent.piece)

    def unused(self) -> int:
        """Bytes of unused pieces."""
        return sum(nbytes * len(pieces) for nbytes, pieces in list(self.free.items()))

    def drop(self) -> None:
        """Free unused pieces."""
        self.free = {}


_pool = Pool()


def new(shape: tuple[int, ...], dtype: Any) -> Array:
    """An uninitialised array."""
    nbytes = math.prod(shape) * dtype.itemsize
    return np.empty(shape, dtype) if nbytes < POOLED else np.ndarray(shape, dtype, _pool.take(nbytes))


def release() -> None:
    """Give memory that nothing uses back to the system."""
    _pool.drop()


def private(array: Array) -> Array:
    """A copy with the same memory layout, owned by the package."""
    if on_gpu(array):
        return copy(array)
    if array.nbytes < POOLED:
        return array.copy("K")
    is_fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    out = new(array.shape[::-1], array.dtype).T if is_fortran else new(array.shape, array.dtype)
    np.copyto(out, array)
    return out
