"""Memory for arrays: aligned, and used again when no array lies in it any more."""

from __future__ import annotations

import ctypes
import math
import weakref
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, copy, cupy, on_gpu

POOLED = 262_144  # bytes from which `new` takes memory from the pool


def aligned(nbytes: int) -> Array:
    """So many bytes of memory, beginning where a line of the cache does: a vector register is filled by one access there."""
    memory = np.empty(nbytes + 63, np.uint8)
    start = -memory.__array_interface__["data"][0] % 64
    return memory[start : start + nbytes]


def empty_bytes(nbytes: int, near: Array) -> Array:
    """So many bytes, aligned, on the device of `near`."""
    return cupy().empty(nbytes, np.uint8) if on_gpu(near) else aligned(nbytes)


class Lent(weakref.ref[Any]):
    """Says when nothing lies in a piece of the pool any more."""

    __slots__ = ("piece",)
    piece: Array


class Pool:
    """Large pieces of memory, to be used again when no array lies in them any more.

    Fresh memory from the system costs a page fault for every 4 KiB: as much as the arithmetic on it. Each time a piece is used,
    an object made for that time (one of ctypes') lends its memory to the array. Every view of the array, and all else that
    NumPy makes of its memory, keeps that object. When it is gone, in whatever thread, the piece is free. References are not
    counted: what they are counted to differs from one Python to another.
    """

    def __init__(self) -> None:
        self.free: dict[int, list[Array]] = {}
        self.lent: dict[int, Lent] = {}  # by their own ids: what refers to them, so that they are there to be told
        self.asked = 0

    def take(self, nbytes: int) -> Any:
        """What lends an array so many bytes, beginning where a line of the cache does."""
        self.asked += 1
        if self.asked % 4096 == 0:
            self.drop()
        try:
            piece = self.free[nbytes].pop()
        except (KeyError, IndexError):
            piece = aligned(nbytes)
        lender = (ctypes.c_char * nbytes).from_buffer(piece)
        lent = Lent(lender, self.back)
        lent.piece = piece
        self.lent[id(lent)] = lent
        return lender

    def back(self, lent: Any) -> None:
        """Nothing lies in a piece any more. It may be any thread that says so, in the middle of anything."""
        del self.lent[id(lent)]
        pieces = self.free.setdefault(lent.piece.nbytes, [])
        if len(pieces) < 64:
            pieces.append(lent.piece)

    def drop(self) -> None:
        """Give back what nobody uses at the moment."""
        self.free = {}


_pool = Pool()


def new(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array of this shape and dtype, with anything in it."""
    nbytes = math.prod(shape) * dtype.itemsize
    return np.empty(shape, dtype) if nbytes < POOLED else np.ndarray(shape, dtype, _pool.take(nbytes))


def private(array: Array) -> Array:
    """A copy that lies in memory as the array does, for the package alone."""
    if on_gpu(array):
        return copy(array)
    if array.nbytes < POOLED:
        return array.copy("K")
    turned = array.flags.f_contiguous and not array.flags.c_contiguous
    out = new(array.shape[::-1], array.dtype).T if turned else new(array.shape, array.dtype)
    np.copyto(out, array)
    return out
